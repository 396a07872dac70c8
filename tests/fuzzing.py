"""Readers of hostile input, in processes of their own, which answer one example after another.

One that dies has failed the example that it was given, and hypothesis can make that smaller.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

import shmprotocol
from shmprotocol.native.binding import ffi

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


@contextlib.contextmanager
def compiled(text: str, folder: Path, *arguments: str) -> Iterator[Reader]:
    """Give a reader in C, with sanitizers where the compiler has them. It must end with 0."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source, program = folder / "reader.c", folder / "reader"
    source.write_text(text)
    include = Path(shmprotocol.__file__).parent / "abi"
    command = ["cc", "-std=gnu11", "-g", "-O1", f"-I{include}", str(source), "-o", str(program)]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if subprocess.run([*command, *sanitizers], capture_output=True, check=False).returncode:
        subprocess.run(command, check=True)

    def start() -> Started:
        child = subprocess.Popen([program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        return child.stdin, child.stdout, child.wait

    reader = Reader(start)
    yield reader
    assert reader.stop() == 0


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
            signal.alarm(0)  # the next example may be long in coming
            replies.write(reply.encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def check_inside(value: Any, start: int, end: int) -> None:
    """Check that each byte of a value lies in a range of addresses, and that it stays read-only."""
    if isinstance(value, Mapping):
        for item in value.values():
            check_inside(item, start, end)
    elif isinstance(value, np.ndarray):
        low, high = bounds(value)
        assert start <= low <= high <= end, (low, high, start, end)
        assert not value.dtype.hasobject
        assert not value.flags.writeable
        value.tobytes()
    else:
        assert isinstance(value, memoryview)
        low = int(ffi.cast("uintptr_t", ffi.from_buffer(value)))
        assert start <= low <= low + value.nbytes <= end
        assert value.readonly
        value.tobytes()


def bounds(array: Any) -> tuple[int, int]:
    """Return the addresses of an array's first byte and of the one behind its last."""
    low = high = array.ctypes.data
    if array.nbytes:
        reach = [step * (length - 1) for step, length in zip(array.strides, array.shape, strict=True)]
        low += sum(step for step in reach if step < 0)
        high += sum(step for step in reach if step > 0) + array.itemsize
    return low, high
