"""The agreement on slices: how a host comes to one that nobody else hands out of. Pure.

A host that joins asks each host that is present for a slice, and uses it only when all have granted it, also
those that have come into sight in a pause after that. Of two that ask for the same one, that with the smaller
rank goes on: it refuses the other, and the other grants and asks for another slice. A host that has granted a
slice refuses it to others for a while, so that two that cannot see each other do not get it from the same
third one.

Hosts in different halves of a partition cannot ask each other, and may come to use the same slice. When they
meet, the larger rank loses: it keeps what lies there, and hands out of another slice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

PROMISE_S = 10.0  # longer than a claimant takes to ask all, with its pause
Rank = tuple[bool, str]  # whether its slice was agreed on, not set by number; its identity


class Claims:
    """The slices that this host uses, asks for, has lost, and has granted to others."""

    def __init__(self, own: str, count: int, fixed: int | None = None, lost: Collection[int] = ()) -> None:
        self.rank: Rank = (fixed is None, own)
        self.count = count
        self.fixed = fixed
        self.held: int | None = None
        self.claiming: int | None = None
        self.lost: list[int] = [number for number in lost if 0 <= number < count]
        self._refused: set[int] = set()  # not to be asked for again before all others
        self._promises: dict[int, tuple[str, float]] = {}  # by slice: to whom, and until when

    def choose(
        self, taken: Collection[int], is_free: Callable[[int], bool], preferred: int | None
    ) -> int | None:
        """Return a slice to ask for: not taken by others, and without a region here; None: there is none.

        Each host begins elsewhere, so that hosts that join together seldom ask for the same one; and those
        that were refused come last, so that two do not refuse each other the same one for ever.
        """
        if self.fixed is not None:
            return self.fixed
        start = int(self.rank[1][:8], 16) % self.count
        order = [(start + step) % self.count for step in range(self.count)]
        if preferred is not None and 0 <= preferred < self.count:
            order.insert(0, preferred)
        usable = [number for number in order if number not in taken and number not in self.lost]
        free = [number for number in usable if is_free(number)]
        other = next((number for number in free if number not in self._refused), None)
        if other is None:
            self._refused.clear()
        return other if other is not None else next(iter(free), None)

    def begin(self, number: int) -> None:
        """Ask for a slice from now on."""
        self.claiming = number

    def withdraw(self) -> None:
        """Ask for none any more: it was refused."""
        if self.claiming is not None:
            self._refused.add(self.claiming)
        self.claiming = None

    def settle(self, number: int) -> bool:
        """Use a slice that all have granted; False if this host has granted it to another meanwhile."""
        if self.claiming != number:
            return False
        self.held, self.claiming = number, None
        self.lost = [each for each in self.lost if each != number]
        return True

    def lose(self, number: int) -> None:
        """Note a slice that another host has now."""
        if number not in self.lost and number != self.held and 0 <= number < self.count:
            self.lost.append(number)

    def answer(self, number: int, claimant: Rank, now_s: float, is_free: Callable[[int], bool]) -> str:
        """Answer a host that asks for a slice: "" grants it, anything else is the reason of a refusal."""
        if not 0 <= number < self.count:
            return f"there is no slice {number}: they are 0 to {self.count - 1}"
        self._withdraw(claimant[1], number)
        if number == self.held:
            return f"slice {number} is in use"
        if number == self.claiming and self.rank < claimant:
            return f"slice {number} is being asked for by another host, which comes first"
        promised, until_s = self._promises.get(number, ("", 0.0))
        if promised != claimant[1] and now_s < until_s:
            return f"slice {number} was granted to another host a moment ago"
        if number in self.lost or not is_free(number):
            return f"slice {number} has regions that are not yours"
        if number == self.claiming:
            self.withdraw()
        self._promises[number] = claimant[1], now_s + PROMISE_S
        return ""

    def forget(self, host: str) -> None:
        """Drop what was granted to a host that is gone."""
        self._withdraw(host, None)

    def _withdraw(self, host: str, number: int | None) -> None:
        """Drop what was granted to a host but for one slice: it asks for that one now, and for no other."""
        for each, (promised, _) in list(self._promises.items()):
            if promised == host and each != number:
                del self._promises[each]

    def meet(self, number: int | None, other: Rank) -> bool:
        """Compare with a host that uses a slice; True: it is the one of this host, which has lost it."""
        if number is None or number != self.held or self.rank < other:
            return False
        self.held = None
        self.lose(number)
        return True
