"""Clients that do what they can to hurt others; `benchmarks.abusers` measures what those feel of it."""
