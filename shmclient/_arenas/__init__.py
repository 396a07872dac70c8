"""Arenas: memory that one process writes and everyone with the right reads, without a system call."""
