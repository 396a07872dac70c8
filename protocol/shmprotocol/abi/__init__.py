"""The memory ABI: the C header and its Python view."""
