"""Checks of the pointers in a region."""
