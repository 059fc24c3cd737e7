"""Explanations of the diagnostic codes, one page each."""
