"""The wire between a host and its clients: names, messages, frames and descriptors."""
