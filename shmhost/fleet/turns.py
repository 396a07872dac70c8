"""Whose turn it is to copy a large region: a host sends each only to a few others at a time. Pure.

If all took it at once from the only host that has it, all would end at the same time, as late as the line of
that host allows, and none would be a source before. With two at a time these are sources for the next, and so
on: 1 GiB for 1,000 hosts with lines of 10 Gbit/s takes 20 s and not 15 minutes (`benchmarks/sizing.py`).
So that slow hosts do not hold up all others, there is room for one more when a turn has lasted long, and for
another each time that has doubled. A slow host goes on with what it has, beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

from shmprotocol.kernel.constants import MIB

AT_ONCE = 2  # hosts that one sends a region to; with 1 a slow one would hold up all, more are slower
TURNS_FROM = 8 * MIB  # bytes of a region; waiting for a turn takes longer than less than that
HOLD_S = 3.0  # since a host has asked for a chunk: it is the turn of another
LONG_S, LONG_PACE = 5.0, 8 * MIB  # what makes a turn long: so many seconds, and bytes a second, for the whole


@dataclass(slots=True)
class Turn:
    """When a host began to copy a payload, and when it asked last."""

    began_s: float
    asked_s: float


class Turns:
    """The hosts that copy each payload from here."""

    def __init__(self) -> None:
        self._turns: dict[bytes, dict[str, Turn]] = {}  # by the hash of the payload and by address

    def admit(self, tree: bytes, size: int, asker: str, now_s: float) -> bool:
        """Whether a host may have a chunk of a payload of this size now."""
        turns = self._turns.setdefault(tree, {})
        for each in [each for each, turn in turns.items() if turn.asked_s < now_s - HOLD_S]:
            del turns[each]
        if asker not in turns:
            if len(turns) >= AT_ONCE + _more(turns, size, now_s):
                return False
            turns[asker] = Turn(now_s, now_s)
        turns[asker].asked_s = now_s
        return True

    def rename(self, early: bytes, tree: bytes) -> None:
        """A payload has its hash now, which takes the place of what it was asked for by."""
        turns = self._turns.pop(early, None)
        if turns is not None:
            self._turns.setdefault(tree, {}).update(turns)

    def end(self, tree: bytes, asker: str) -> None:
        """A host has a whole copy."""
        turns = self._turns.get(tree, {})
        turns.pop(asker, None)
        if not turns:
            self._turns.pop(tree, None)

    def beat(self, now_s: float) -> None:
        """Forget payloads that nobody asks for."""
        for tree, turns in list(self._turns.items()):
            if all(turn.asked_s < now_s - HOLD_S for turn in turns.values()):
                del self._turns[tree]


def _more(turns: dict[str, Turn], size: int, now_s: float) -> int:
    """Return for how many more hosts there is room: one for a long turn, two for one of twice that."""
    oldest_s = now_s - min((turn.began_s for turn in turns.values()), default=now_s)
    return int(oldest_s / (LONG_S + size / LONG_PACE)).bit_length()
