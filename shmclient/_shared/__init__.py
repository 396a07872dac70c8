"""The parts of `shmclient.shared_memory`: which host it uses, and its manager."""
