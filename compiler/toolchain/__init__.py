"""Vendor SDKs in environments of their own."""
