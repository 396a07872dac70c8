"""Chunks that other hosts ask for: each goes when the limits of bandwidth let it. Never waits for a link.

A host that asks has a credit for each chunk, so few are waiting. Those over a bound are refused, and
asked for again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from shmhost.fleet.bandwidth import Bandwidth
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.events import BUSY, Question, Refusal
from shmhost.fleet.messages import MAX_REASON
from shmhost.fleet.threads import Chunk
from shmprotocol.errors import RemoteProtocolError

LONGEST_S = 5.0  # that a chunk waits here; who asks waits for 15 s, and a slow link needs its time too
FULL = f"{BUSY}: more is asked for than the limit of bandwidth lets through"
MAX_WAITING = 256  # chunks, of all hosts


class Sending:
    """The chunks that wait.

    `chunk` takes the name of an asker and the fields of its question; returns its address, and the size.
    `opened` returns it with a descriptor. Both raise Refusal and RemoteProtocolError.
    """

    def __init__(
        self,
        plan: FleetConfig,
        chunk: Callable[[str, tuple[Any, ...]], tuple[str, int]],
        opened: Callable[[tuple[Any, ...]], Chunk],
    ) -> None:
        self.bandwidth: Bandwidth = Bandwidth(plan.bandwidth, plan.peer_bandwidth)
        self.sent: int = 0  # bytes
        self.refused: int = 0  # chunks, that had to be asked for again
        self._chunk = chunk
        self._opened = opened
        self._waiting = 0

    def bulk(self, name: str, values: tuple[Any, ...]) -> tuple[Chunk, float]:
        """Return a chunk for a connection of a host, and how long that has to wait; as `answer`."""
        size, wait_s = self._admit(name, values)
        self.sent += size
        return self._opened(values), wait_s

    def answer(self, question: Question, values: tuple[Any, ...]) -> None:
        """Send a chunk that a host asks for, now or in a moment; Refusal, RemoteProtocolError."""
        size, wait_s = self._admit(question.asker, values, has_room=self._waiting < MAX_WAITING)
        if wait_s:
            self._waiting += 1
            asyncio.get_running_loop().call_later(wait_s, self._answer_late, question, values, size)
        else:
            question.work(self._opened(values).read)
            self.sent += size

    def _admit(self, name: str, values: tuple[Any, ...], *, has_room: bool = True) -> tuple[int, float]:
        """Return the size of a chunk that is asked for, and how long it has to wait."""
        asker, size = self._chunk(name, values)
        wait_s = self.bandwidth.take(asker, size, time.monotonic(), LONGEST_S) if has_room else math.inf
        if wait_s > LONGEST_S:
            self.refused += 1
            raise Refusal(FULL)
        return size, wait_s

    def _answer_late(self, question: Question, values: tuple[Any, ...], size: int) -> None:
        self._waiting -= 1
        try:
            question.work(self._opened(values).read)
            self.sent += size
        except (RemoteProtocolError, Refusal) as error:
            question.refuse(str(error)[:MAX_REASON])
