"""`shmhost top`: a live view of the host."""
