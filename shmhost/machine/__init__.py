"""The machine around the host: socket files, kernel files, logs."""
