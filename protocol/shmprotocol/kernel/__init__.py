"""Kernel interfaces: address space, status of descriptors, constants."""
