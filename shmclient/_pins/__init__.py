"""Pins: buffers that stay at their addresses."""
