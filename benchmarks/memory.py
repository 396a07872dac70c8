"""The memory of an owner and its readers, as plain programs that do nothing else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.measure import summary
from benchmarks.peers.team import memory_kib
from benchmarks.processes import host
from benchmarks.results import OURS, Row

READERS = 8
TURNS = 5
AIM_MIB = 145.0

OWNER = """
import sys, shmclient
with shmclient.connect(sys.argv[1]) as shm, shm.arena("memory", 16 << 20, names=16, keep=False) as arena:
    while True:
        arena["x"] = bytes(1 << 20)
        print(flush=True)
        if not sys.stdin.readline():
            break
"""
READER = """
import sys, shmclient
with shmclient.connect(sys.argv[1]) as shm:
    while True:
        value = shm.get("memory/x")
        print(sum(value[::4096]), flush=True)
        if not sys.stdin.readline():
            break
"""


def total(folder: str, cpu: int) -> Row:
    """Sum up the PSS of the host, an owner and eight readers, each of which holds 1 MiB and has read it."""
    with host(folder, cpu) as (path, pid), ExitStack() as stack:
        programs = [OWNER, *[READER] * READERS]
        children = [stack.enter_context(_running(program, path)) for program in programs]
        for _ in range(TURNS):
            for child in children:
                _turn(child)
        mib = memory_kib([pid, *(child.pid for child in children)], "Pss") / 1024
    title = f"arena: memory of host, owner, {READERS} readers (PSS), 1 MiB"
    return Row("arena/memory", title, "MiB", {OURS: summary([[mib]])}, aim=AIM_MIB)


@contextlib.contextmanager
def _running(program: str, path: str) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, path]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, process_group=0, bufsize=0) as child:
        try:
            _answer(child)
            yield child
        finally:
            child.kill()


def _turn(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.write(b"\n")
    _answer(child)


def _answer(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    if not child.stdout.readline():
        raise RuntimeError(f"a program ended with {child.wait()}")
