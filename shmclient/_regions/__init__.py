"""Regions: handles, mappings, leases, and how new ones are built."""
