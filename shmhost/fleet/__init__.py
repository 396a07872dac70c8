"""Hosts of several machines that share addresses and regions. Loaded by `serve --fleet` alone."""
