"""Whose turn it is to copy a large region: a host sends each only to a few others at a time. Pure.

If all took it at once from the only host that has it, all would end at the same time, as late as the line of
that host allows, and none would be a source before. With two at a time these are sources for the next, and so
on: 1 GiB for 1,000 hosts with lines of 10 Gbit/s takes 20 s and not 15 minutes (`benchmarks/sizing.py`).
"""

from __future__ import annotations

from shmprotocol.kernel.constants import MIB

AT_ONCE = 2  # hosts that one sends a region to; with 1 a slow one would hold up all, more are slower
TURNS_FROM = 8 * MIB  # bytes of a region; waiting for a turn takes longer than less than that
HOLD_S = 3.0  # since a host has asked for a chunk: it is the turn of another


class Turns:
    """The hosts that copy each payload from here, and when they asked last."""

    def __init__(self) -> None:
        self._asked_s: dict[bytes, dict[str, float]] = {}  # by the hash of the payload and by address

    def admit(self, tree: bytes, asker: str, now_s: float) -> bool:
        """Whether a host may have a chunk now."""
        askers = self._asked_s.setdefault(tree, {})
        for each in [each for each, asked_s in askers.items() if asked_s < now_s - HOLD_S]:
            del askers[each]
        if asker not in askers and len(askers) >= AT_ONCE:
            return False
        askers[asker] = now_s
        return True

    def rename(self, early: bytes, tree: bytes) -> None:
        """A payload has its hash now, which takes the place of what it was asked for by."""
        askers = self._asked_s.pop(early, None)
        if askers is not None:
            self._asked_s.setdefault(tree, {}).update(askers)

    def end(self, tree: bytes, asker: str) -> None:
        """A host has a whole copy."""
        askers = self._asked_s.get(tree, {})
        askers.pop(asker, None)
        if not askers:
            self._asked_s.pop(tree, None)

    def beat(self, now_s: float) -> None:
        """Forget payloads that nobody asks for."""
        for tree, askers in list(self._asked_s.items()):
            if all(asked_s < now_s - HOLD_S for asked_s in askers.values()):
                del self._asked_s[tree]
