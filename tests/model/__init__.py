"""A model checker for protocols in shared memory, and the arena protocol as it sees it.

`programs` says how a process is written down, `memory` what a load may return, `explorer` goes through all
that can happen. `arena` and `sleeping` are the protocols. `python -m model` in the folder of the tests
explores them by hand.
"""
