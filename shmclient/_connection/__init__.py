"""One connection to a host: pending requests, outgoing messages, retries."""
