"""The threads that seal memfds: in the turn of the loop if that is quick, as nearly all are.

A creator can make its sealing wait for ever (see `core.apart`), so a thread does it. The loop waits for that
thread as long as a slice of a client's requests may take. † That costs 15 us, against 50 for a
worker with the GIL and two turns of the loop (2026-11).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable

from shmhost.core.work import Sealing
from shmprotocol.native import builtins

WAIT_NS = 100_000  # as much as one client's queued requests may take, see `link`

Said = tuple[int, int]


class Sealers:
    """The threads. One waits for work; another is begun when that is held up."""

    def __init__(self, are_free: Callable[[Hashable], bool]) -> None:
        self.wait_ns: int = WAIT_NS
        self._are_free = are_free  # see Workers
        self._idle: list[builtins.Sealer] = []

    def take(self, uid: int, is_retry: bool = False) -> builtins.Sealer | None:
        """Return one that has nothing to do; None: a user's sealing takes long already, or there is none."""
        if not self._are_free((uid, is_retry)):
            return None  # a call that waits for one begins at once, so, and does not fail
        try:
            return self._idle.pop() if self._idle else builtins.Sealer()
        except OSError:  # the limit of threads is reached
            return None

    def give(self, sealer: builtins.Sealer) -> None:
        """Give one back that has nothing to do again."""
        if not self._idle:
            self._idle.append(sealer)

    def finish(self, sealer: builtins.Sealer) -> Said:
        """Wait for what one does, and give it back; return what came of it. For a thread."""
        said = sealer.take()
        assert said is not None
        self.give(sealer)
        return said

    def seal(self, uid: int, is_retry: bool, sealing: Sealing) -> Said | Callable[[], Said] | None:
        """Return what came of it, or a call that waits for that, for a thread; None: as `take`."""
        sealer = self.take(uid, is_retry)
        if sealer is None:
            return None
        said = sealer.seal(*sealing, self.wait_ns)
        if said is None:
            return functools.partial(self.finish, sealer)
        self.give(sealer)
        return said
