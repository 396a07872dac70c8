"""The demo: a pointer-linked word index of Python's standard library, read by Python and C."""
