"""Benchmarks: `python -m benchmarks` (ours against floors), `python -m benchmarks.peers` (against others)."""
