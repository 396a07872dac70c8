"""The numbers of generations, which never decrease for a name, even across restarts of the host.

No list of names is kept. A name that is new, or new again, begins above all that any unlinked name ever had
(the floor). Over restarts the same is done in blocks: before a number above the ceiling is given, a ceiling
BLOCK higher is stored, and the next host takes what is stored as its floor. So a host that is killed at any
moment costs at most BLOCK numbers. Pure but for `store`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from shmprotocol.errors import QuotaExceeded
from shmprotocol.wire.names import MAX_GENERATION

BLOCK = 1000  # one write for a thousand publishes; MAX_GENERATION is enough for 10**12 restarts


class Generations:
    """Issues numbers from 1, or from `resume` on. `store` keeps a ceiling before it is reached."""

    def __init__(self, store: Callable[[int], None] = lambda _ceiling: None) -> None:
        self._store = store
        self._floor = 0
        self._ceiling = 0

    def resume(self, ceiling: int) -> None:
        """Start above the number that an earlier host stored."""
        self._floor = self._ceiling = ceiling

    def record(self) -> tuple[int, int]:
        """Return the floor and the ceiling, for `adopt`."""
        return self._floor, self._ceiling

    def adopt(self, floor: int, ceiling: int) -> None:
        """Go on where another host stopped, which has stored this ceiling."""
        self._floor, self._ceiling = floor, ceiling

    def next(self, current: int | None) -> int:
        """Return the successor of a name's current number; its first number if it has none.

        QuotaExceeded: all numbers up to MAX_GENERATION are used up.
        """
        number = (self._floor if current is None else current) + 1
        if number > MAX_GENERATION:
            raise QuotaExceeded(
                f"no generation is left: {number} is over {MAX_GENERATION}. End the host and remove the lock "
                "file beside its socket: generations then start at 1"
            )
        if number > self._ceiling:
            self._ceiling = min(number + BLOCK - 1, MAX_GENERATION)
            self._store(self._ceiling)
        return number

    def retire(self, number: int) -> None:
        """Note the last number of an unlinked name: no name starts at it or below any more."""
        self._floor = max(self._floor, number)


def numbers(first: int, store: Callable[[int], None]) -> Iterator[int]:
    """Return the numbers of regions, from `first` on; before one is reached, a number above it is stored."""
    # † 10 ns each; a generator takes 120 (2026-11).
    return itertools.chain.from_iterable(_blocks(first, store))


def _blocks(first: int, store: Callable[[int], None]) -> Iterator[Iterable[int]]:
    for start in itertools.count(first, BLOCK):
        store(start + BLOCK)
        yield range(start, start + BLOCK)
