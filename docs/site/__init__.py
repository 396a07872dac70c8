"""The code that makes a site of pages, docstrings, commands and headers: `make docs`."""
