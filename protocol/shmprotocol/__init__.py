"""The contract between host, clients and third parties: errors, messages, the connection, the memory."""

__version__ = "0.1.0"

__all__ = ["__version__"]
