"""The compiled part: C sources, how they are built, and the one module that imports them."""
