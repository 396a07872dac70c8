"""State of this process that all clients share: address space, locks, fork."""
