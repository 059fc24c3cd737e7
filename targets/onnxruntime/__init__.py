"""Target plugin."""
