"""Threads for calls that may wait in the kernel, a few at a time for each user. Knows no session.

A client that holds a descriptor of an object can make each call that takes the object's lock wait:
F_SEAL_WRITE waits for pages that I/O holds (memfd_wait_for_pins in Linux mm/memfd.c: 150 ms), and a write
of the client's whose buffer never becomes readable (a mapped FUSE file) holds the lock for ever. So these
calls never run in the event loop, and no two users share a lane: WIDTH calls of a lane run at once, the
rest wait in order. A user that blocks its lanes makes nobody else wait.

All but `_run` happens in the loop's thread, so that no lock is needed. The threads are daemons: one that
the kernel does not give back delays no end of the process.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import anyio

WIDTH = 2  # so that one blocked call of a user leaves room for one that is not
MAX_IDLE = 2  # threads that wait for work: starting one costs more than the call it is for

Outcome = tuple[Any, BaseException | None]


@dataclass(eq=False, slots=True)
class Job:
    """A call in a lane, and what takes its outcome in the loop's thread."""

    lane: Hashable
    call: Callable[[], Any]
    done: Callable[[Outcome], None]


Inbox = SimpleQueue[Job | None]


def attempt(call: Callable[[], Any]) -> Outcome:
    """Call a function; return its result or its error."""
    try:
        return call(), None
    except Exception as error:
        return None, error


class Workers:
    """The threads of one event loop. Made and used in the loop's thread alone.

    A lane has at most WIDTH threads and is forgotten when it is empty; the host gives each user two lanes, so
    that is the limit for each user that is connected. † A hop costs 20 us, and 45 us by anyio.to_thread, with
    loop and thread on one CPU (2026-11).
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: Counter[Hashable] = Counter()  # by lane
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._idle: list[Inbox] = []
        self._drained = anyio.Event()
        self._is_closed = False

    def start(self, lane: Hashable, call: Callable[[], Any], done: Callable[[Outcome], None]) -> Job:
        """Have a thread make a call as soon as the lane has room; `done` takes its outcome, never at once."""
        job = Job(lane, call, done)
        if self._running[lane] < WIDTH:
            self._dispatch(job)
        else:
            self._waiting.setdefault(lane, deque()).append(job)
        return job

    def cancel(self, job: Job) -> bool:
        """Take back a job that has not begun; False when it has, and `done` will be called."""
        queue = self._waiting.get(job.lane, ())
        if job not in queue:
            return False
        assert isinstance(queue, deque)
        queue.remove(job)
        if not queue:
            del self._waiting[job.lane]
        return True

    async def drain(self) -> None:
        """Return when no job runs or waits."""
        while self._running:
            self._drained = anyio.Event()
            await self._drained.wait()

    def close(self) -> None:
        """End the threads that have no work. Running calls end by themselves, unnoticed."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().put(None)

    def _dispatch(self, job: Job) -> None:
        self._running[job.lane] += 1
        try:
            inbox = self._idle.pop() if self._idle else self._start_thread()
        except RuntimeError as error:  # the limit of threads is reached
            outcome = None, OSError(errno.EAGAIN, str(error))
            self._loop.call_soon(self._finished, None, job, outcome)
            return
        inbox.put(job)

    def _start_thread(self) -> Inbox:
        inbox: Inbox = SimpleQueue()
        threading.Thread(target=self._run, args=(inbox,), name="shmhost worker", daemon=True).start()
        return inbox

    def _run(self, inbox: Inbox) -> None:
        while (job := inbox.get()) is not None:
            outcome = attempt(job.call)
            try:
                self._loop.call_soon_threadsafe(self._finished, inbox, job, outcome)
            except RuntimeError:  # the loop has ended without waiting for this, and nobody ends this thread
                return
            del job, outcome  # what they hold may have to go before the next one comes

    def _finished(self, inbox: Inbox | None, job: Job, outcome: Outcome) -> None:
        self._release(inbox)
        self._running[job.lane] -= 1
        if job.lane in self._waiting:
            self._dispatch(self._next(job.lane))
        elif not self._running[job.lane]:
            del self._running[job.lane]
        if not self._is_closed:
            job.done(outcome)
        if not self._running:
            self._drained.set()

    def _next(self, lane: Hashable) -> Job:
        queue = self._waiting[lane]
        job = queue.popleft()
        if not queue:
            del self._waiting[lane]
        return job

    def _release(self, inbox: Inbox | None) -> None:
        if inbox is None:
            return
        if self._is_closed or len(self._idle) >= MAX_IDLE:
            inbox.put(None)
        else:
            self._idle.append(inbox)
