"""Threads for calls that may wait in the kernel, a few at a time for each user. Knows no session.

A client that holds a descriptor of an object can make each call that takes the object's lock wait:
F_SEAL_WRITE waits for pages that I/O holds (memfd_wait_for_pins in Linux mm/memfd.c: 150 ms), and a write
of the client's whose buffer never becomes readable (a mapped FUSE file) holds the lock for ever. So these
calls never run in the event loop, and no two users share a lane: WIDTH calls of a lane run at once, the
rest wait in order. A user that blocks its lanes makes nobody else wait.

Lanes belong to the loop's thread. A job passes to a thread, and its outcome back, by a counter of the
kernel's (eventfd(2)) on either side. † One hop costs 7 us then, against 22 us by SimpleQueue and
call_soon_threadsafe, with loop and thread on one CPU (2026-11): a thread that is woken by a write does not
wake while the writer has the interpreter, only to sleep again until it has it.

The threads are daemons: one that the kernel does not give back delays no end of the process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import anyio

from shmhost.core.work import Steps, Work

WIDTH = 2  # so that one blocked call of a user leaves room for one that is not
MAX_IDLE = 2  # threads that wait for work: starting one costs more than the call it is for

_COUNT = 8  # bytes of an eventfd's counter
_ONE = (1).to_bytes(_COUNT, sys.byteorder)

Outcome = tuple[Any, BaseException | None]

# Has a thread carry out a Work of a link, the first argument, and its `resume` called. Returns what takes the
# Work back if it has not begun, or the outcome if it is there already.
StartWork = Callable[[Any, Steps, Work], Callable[[], bool] | Outcome]


class NoThread(OSError):
    """A thread could not be started: the call was not made."""


@dataclass(eq=False, slots=True)
class Job:
    """A call in a lane, and what takes its outcome in the loop's thread."""

    lane: Hashable
    call: Callable[[], Any]
    done: Callable[[Outcome], None]


def attempt(call: Callable[[], Any]) -> Outcome:
    """Call a function; return its result or its error."""
    try:
        return call(), None
    except Exception as error:
        return None, error


def cannot() -> bool:
    """Take no job back: there is none."""
    return False


def later(
    call_later: Callable[[Callable[[], None]], None], steps: Steps, resume: Callable[[Steps, Outcome], None]
) -> Callable[[], bool]:
    """Have steps resumed when others have had their turn; return what takes that back."""
    is_pending = True

    def go_on() -> None:
        if is_pending:
            resume(steps, (None, None))

    def take_back() -> bool:
        nonlocal is_pending
        is_pending = False
        steps.close()
        return True

    call_later(go_on)
    return take_back


class Worker:
    """A thread that carries out one job at a time. NoThread if it cannot be started.

    It owns its counter, and closes it when it ends: after `give(None)`, or when `report` returns False.
    """

    def __init__(self, report: Callable[[Worker, Job, Outcome], bool]) -> None:
        self._report = report
        self._job: Job | None = None  # written before the counter, and read after it
        try:
            self._counter = os.eventfd(0, os.EFD_CLOEXEC)
        except OSError as error:
            raise NoThread(error.errno, error.strerror) from None
        try:
            threading.Thread(target=self._run, name="shmhost worker", daemon=True).start()
        except RuntimeError as error:  # the limit of threads is reached
            os.close(self._counter)
            raise NoThread(errno.EAGAIN, str(error)) from None

    def give(self, job: Job | None) -> None:
        """Hand over a job, of which the thread has none; None ends the thread."""
        self._job = job
        os.write(self._counter, _ONE)

    def _run(self) -> None:
        try:
            while self._work():
                pass
        finally:
            os.close(self._counter)

    def _work(self) -> bool:
        """Carry out the next job; False when the thread shall end. Its frame goes, and what the job holds."""
        os.read(self._counter, _COUNT)
        job, self._job = self._job, None
        return job is not None and self._report(self, job, attempt(job.call))


class Workers:
    """The threads of one event loop. Made and used in the loop's thread alone.

    A lane has at most WIDTH threads and is forgotten when it is empty; the host gives each user two lanes, so
    that is the limit for each user that is connected.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: dict[Hashable, int] = {}  # by lane, of those that have any
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._idle: list[Worker] = []
        self._drained = anyio.Event()
        # Each turn of the loop takes one outcome: a call of `done` that fails keeps no other from its own.
        self._outcomes: deque[tuple[Worker, Job, Outcome]] = deque()
        self._counter = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._lock = threading.Lock()  # while a thread counts, so that `close` does not take the counter away
        self._is_closed = False
        self._loop.add_reader(self._counter, self._take_outcome)

    def start(self, lane: Hashable, call: Callable[[], Any], done: Callable[[Outcome], None]) -> Job:
        """Have a thread make a call as soon as the lane has room; `done` takes its outcome, never at once."""
        job = Job(lane, call, done)
        if self._running.get(lane, 0) < WIDTH:
            self._dispatch(job)
        else:
            self._waiting.setdefault(lane, deque()).append(job)
        return job

    def are_free(self, lane: Hashable) -> bool:
        """Whether nothing runs in a lane, and a call could begin in a thread that there is."""
        return bool(self._idle) and lane not in self._running

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits."""
        return bool(self._running)

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
        self._loop.remove_reader(self._counter)
        with self._lock:
            self._is_closed = True
            os.close(self._counter)
        while self._outcomes:
            self._outcomes.popleft()[0].give(None)
        while self._idle:
            self._idle.pop().give(None)

    def _dispatch(self, job: Job) -> None:
        self._running[job.lane] = self._running.get(job.lane, 0) + 1
        try:
            worker = self._idle.pop() if self._idle else Worker(self._report)
        except NoThread as error:
            self._loop.call_soon(self._finish, job, (None, error))
            return
        worker.give(job)

    def _report(self, worker: Worker, job: Job, outcome: Outcome) -> bool:
        """Pass on an outcome, in the thread of its worker; False if nobody is there any more to take it."""
        with self._lock:
            if not self._is_closed:
                self._outcomes.append((worker, job, outcome))
                os.write(self._counter, _ONE)
            return not self._is_closed

    def _take_outcome(self) -> None:
        os.read(self._counter, _COUNT)
        worker, job, outcome = self._outcomes.popleft()
        if len(self._idle) < MAX_IDLE:
            self._idle.append(worker)
        else:
            worker.give(None)
        self._finish(job, outcome)

    def _finish(self, job: Job, outcome: Outcome) -> None:
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
