"""Where `top` has its samples from: a connection to the host, and a thread that asks again and again.

Knows no screen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from shmhost.commands.top.figures import Sample, View, compare
from shmprotocol.errors import HostGone, ShmError
from shmprotocol.wire.query import Query


class Feed:
    """Samples of a host, over one connection for as long as that lasts. A context manager."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._query: Query | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._query is not None:
            self._query.__exit__()
            self._query = None

    def take(self) -> Sample:
        """Return a sample. After any error the next call connects again."""
        try:
            return self._ask()
        except BaseException:
            self.__exit__()
            raise

    def _ask(self) -> Sample:
        if self._query is None:
            self._query = Query(self._path).__enter__()
        regions = tuple(inspection.info for inspection in self._query.inspect(""))
        return Sample(self._query.measure(), regions, time.monotonic_ns(), time.time_ns())


class Sampler(threading.Thread):
    """Takes a sample each `interval_s`, and tells of each: its figures, or the error there was instead.

    The feed is the thread's from its start on. A daemon: it may wait for a host that is stopped when the
    process ends.
    """

    def __init__(
        self, feed: Feed, first: Sample, interval_s: float, tell: Callable[[View | BaseException], object]
    ) -> None:
        super().__init__(name="shmhost-top", daemon=True)
        self._feed, self._sample, self._interval_s, self._tell = feed, first, interval_s, tell
        self._over = threading.Event()

    def end(self) -> None:
        """Ask for no more samples; one that is being taken is told of all the same."""
        self._over.set()

    def run(self) -> None:
        """Take samples until `end`, or until an error that is none of the project's: a fault."""
        due = time.monotonic() + self._interval_s
        with self._feed:
            while not self._over.wait(max(due - time.monotonic(), 0)):
                due = time.monotonic() + self._interval_s
                try:
                    self._tell(self._next())
                except ShmError as error:
                    self._tell(error)
                except BaseException as fault:
                    self._tell(fault)
                    return

    def _next(self) -> View:
        sample = self._feed.take()
        view, self._sample = compare(self._sample, sample), sample
        return view


def notice_of(error: ShmError) -> str:
    """Return what the screen says while there are no samples."""
    return "no host: waiting for it" if isinstance(error, HostGone) else f"{error}; trying again"
