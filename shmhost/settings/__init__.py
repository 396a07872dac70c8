"""The settings of a host and their sources."""
