"""A process of `shmhost demo live`, by its argument: `own`, `read`, `read --write` or `reopen`.

The owner rewrites a frame as fast as it can, and readers check the sum in each: see frame_reader.c among the
examples. Owner and readers report five times a second, a line of JSON, until EOF on their standard input.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import shmclient
from shmprotocol.kernel.constants import MIB

ARENA, NAME = "live", "frame"
ARENA_SIZE = 32 * MIB
FRAME_SIZE = MIB
HEAD = 2  # words in front: the number of the frame, and the sum of all other words
REPORT_S = 0.2  # as in frame_reader.c
WAIT_S = 30.0  # for the owner, or its next frame
U64 = 2**64 - 1


class Reporter:
    """Counts values, and prints a line on them from time to time."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._began = time.monotonic()
        self._values = self._broken = 0
        self._ages: list[int] = []

    def add(self, is_whole: bool = True, age_ns: int | None = None) -> bool:
        """Add a value; False: the input is at its end."""
        self._values += 1
        self._broken += not is_whole
        if age_ns is not None:
            self._ages.append(age_ns)
        took_s = time.monotonic() - self._began
        if took_s < REPORT_S:
            return True
        if select.select([0], [], [], 0)[0] and not os.read(0, 1):
            return False
        print(json.dumps(self._report(took_s)), flush=True)
        self._start()
        return True

    def _report(self, took_s: float) -> dict[str, Any]:
        report = {"pid": os.getpid(), "values": self._values, "broken": self._broken, "seconds": took_s}
        if self._ages:
            p50, p99 = np.percentile(self._ages, (50, 99)) / 1000
            report |= {"p50_us": float(p50), "p99_us": float(p99)}
        return report


def own() -> None:
    """Rewrite the frame, in place, each with other words than the last."""
    base = np.random.default_rng().integers(0, U64, FRAME_SIZE // 8 - HEAD, "u8")
    base_sum, count = int(np.add.reduce(base)), len(base)
    reporter = Reporter()
    number = 0
    with (
        shmclient.connect() as shm,
        shm.arena(ARENA, ARENA_SIZE, names=16, keep=False) as arena,
    ):
        is_on = True
        while is_on:
            number += 1
            with arena.loan(NAME, FRAME_SIZE // 8, "u8") as words:
                words[:HEAD] = number, (number + base_sum + number * count) & U64
                np.add(base, np.uint64(number), out=words[HEAD:])
            is_on = reporter.add()


def read() -> None:
    """Check the newest frame, again and again."""
    reporter = Reporter()
    with shmclient.connect() as shm, shm.open_arena(ARENA, wait=WAIT_S) as view:
        after, is_on = 0, True
        while is_on:
            with view.wait(NAME, after=after, wait=WAIT_S) as value:
                age_ns = time.monotonic_ns() - value.published_ns
                words, after = value.array, value.generation
                is_whole = is_sum_right(words)
                del words
            is_on = reporter.add(is_whole, age_ns)


def is_sum_right(words: Any) -> bool:
    """Whether a frame is whole."""
    return int(words[1]) == (int(words[0]) + int(np.add.reduce(words[HEAD:]))) & U64


def write() -> None:
    """Report the arena's address and write to a frame: the kernel ends this process."""
    with shmclient.connect() as shm, shm.open_arena(ARENA, wait=WAIT_S) as view:
        value = view.wait(NAME, wait=WAIT_S)
        print(json.dumps({"address": shm.stat(ARENA).address}), flush=True)
        ctypes.memset(value.address, 0, 8)
        sys.exit("the frame was written to")


def reopen() -> None:
    """Open the inherited descriptor of the arena anew, for writing; report what can be done with it then."""
    memory = int(os.environ["SHM_ARENAS"].split()[0])
    with contextlib.ExitStack() as stack:
        writable = os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, writable)
        attempts: dict[str, Callable[[], object]] = {
            "mmap": lambda: mmap.mmap(writable, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_WRITE),
            "write": lambda: os.pwrite(writable, b"x", mmap.PAGESIZE),
            "truncate": lambda: os.ftruncate(writable, mmap.PAGESIZE),
        }
        print(json.dumps({name: outcome(attempt) for name, attempt in attempts.items()}), flush=True)


def outcome(attempt: Callable[[], object]) -> str:
    """Return the name of the error of an attempt; "" if it succeeds."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""


def main(arguments: list[str]) -> None:
    """Do one of the tasks."""
    tasks = {("own",): own, ("read",): read, ("read", "--write"): write, ("reopen",): reopen}
    tasks[tuple(arguments)]()


if __name__ == "__main__":
    main(sys.argv[1:])
