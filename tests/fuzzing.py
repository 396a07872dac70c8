"""Readers of hostile input, in processes of their own, which answer one example after another.

One that dies has failed the example that it was given, and hypothesis can make that smaller.
"""

from __future__ import annotations

import os
import signal
import struct
import traceback
from collections.abc import Callable
from typing import IO

PATIENCE_S = 30  # for one example, before it counts as a hang
Started = tuple[IO[bytes], IO[bytes], Callable[[], int]]  # requests, replies, and how to wait for its end


class Reader:
    """A process that answers each example in a line. Its death fails that example; the next has a new one."""

    def __init__(self, start: Callable[[], Started]) -> None:
        self._start = start
        self._running: Started | None = None

    def ask(self, request: bytes) -> str:
        if self._running is None:
            self._running = self._start()
        requests, replies, _ = self._running
        requests.write(struct.pack("<I", len(request)) + request)
        requests.flush()
        reply = replies.readline().decode()
        if not reply:
            raise AssertionError(f"the reader ended with {self.stop()}")
        return reply.strip()

    def stop(self) -> int:
        """End the process; return its exit code, or minus the signal that ended it."""
        if self._running is None:
            return 0
        requests, replies, wait = self._running
        self._running = None
        replies.close()
        requests.close()
        return wait()


def forked(answer: Callable[[bytes], str]) -> Started:
    """Start a child of this process that answers."""
    (theirs, requests), (replies, ours) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(requests)
        os.close(replies)
        with open(theirs, "rb") as incoming, open(ours, "wb", buffering=0) as outgoing:
            serve(answer, incoming, outgoing)
    os.close(theirs)
    os.close(ours)
    return open(requests, "wb"), open(replies, "rb"), lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve(answer: Callable[[bytes], str], requests: IO[bytes], replies: IO[bytes]) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not a handler in Python, which a hang in C never runs
    code = 1
    try:
        while size := requests.read(4):
            signal.alarm(PATIENCE_S)
            try:
                reply = answer(requests.read(struct.unpack("<I", size)[0]))
            except Exception:
                reply = traceback.format_exc().replace("\n", " | ")
            replies.write(reply.encode() + b"\n")
        code = 0
    finally:
        os._exit(code)
