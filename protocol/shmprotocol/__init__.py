"""The contract between host, clients and third parties: errors, messages, the connection, the memory."""
