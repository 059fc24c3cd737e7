"""Weights made cheaper to store without another type: clustered, or with zeros in them."""
