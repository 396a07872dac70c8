"""What the kernel offers: address space, status of descriptors, its numbers."""
