"""Seals filled spares: in the turn of the loop if that is quick, as nearly all are, else elsewhere.

The client of a spare can make its sealing wait for ever (see `workers`), so a thread does it. The loop waits
for that thread as long as a slice of a client's requests may take. † That costs 15 us, against 50 for a
worker with the GIL and two turns of the loop (2026-11).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from shmhost.core.work import Sealing
from shmprotocol.native import builtins

WAIT_NS = 100_000  # as much as one client's queued requests may take, see `link`

Said = tuple[int, int]


class Sealers:
    """The threads. One waits for work; another is begun when that is held up."""

    def __init__(self) -> None:
        self._idle: list[builtins.Sealer] = []

    def seal(self, sealing: Sealing) -> Said | Callable[[], Said] | None:
        """Return what came of it, or a call that waits for that, for a thread; None: there is no sealer."""
        try:
            sealer = self._idle.pop() if self._idle else builtins.Sealer()
        except OSError:  # the limit of threads is reached
            return None
        said = sealer.seal(*sealing, WAIT_NS)
        if said is None:
            return functools.partial(self._take, sealer)
        self._idle.append(sealer)
        return said

    def _take(self, sealer: builtins.Sealer) -> Said:
        said = sealer.take()
        assert said is not None
        if not self._idle:
            self._idle.append(sealer)
        return said
