"""The waiting part of the host: sockets, threads, metrics and notifications."""
