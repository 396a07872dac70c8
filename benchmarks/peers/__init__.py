"""This project beside others: one module for each peer, workloads that know no peer, a runner.

`python -m benchmarks.peers` measures. A peer is used by its fastest documented road. A peer that
cannot do a workload says why, and the reason becomes a footnote.
"""
