"""What host, clients and third parties agree on: errors, messages, the connection, the memory."""
