"""What the tests of misuse share: a script in its own process, with a deadline, and what it leaves over."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import shmclient
from support import WatchedHost, count_waits, wait_until

DEADLINE_S = 20.0  # for scripts that take half a second: only a hang is over this


class Ended(NamedTuple):
    """How a script ended."""

    code: int
    out: str
    err: str


def run_script(
    script: str,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    ready: Callable[[], bool] = lambda: True,
) -> Ended:
    """Run a script as a user would; it must end by itself before the deadline.

    It gets a line on its standard input once `ready` is true.
    """
    # From 3.12 on, Python warns of each fork in a process with threads, such as those of a host.
    quiet = "ignore:This process:DeprecationWarning"
    command = [sys.executable, "-W", quiet, "-c", textwrap.dedent(script), *arguments]
    # subprocess.run would wait on for children of the script that still hold its output.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    ) as child:
        try:
            wait_until(lambda: ready() or child.poll() is not None)
            out, err = child.communicate("\n", timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            raise AssertionError(f"the script never ended; it said {out!r} {err[-2000:]!r}") from None
    return Ended(child.returncode, out, err)


def run_private(script: str, folder: Path) -> Ended:
    """Run a script that starts its own hosts: no folder of theirs, and nothing in /dev/shm, may be left."""
    before = set(os.listdir("/dev/shm"))
    ended = run_script(script, environ={"TMPDIR": str(folder), "XDG_RUNTIME_DIR": ""})
    assert os.listdir(folder) == []
    # What other programs put there meanwhile goes with them.
    wait_until(lambda: not _new_objects(before), shown=lambda: _new_objects(before))
    return ended


def _new_objects(before: set[str]) -> set[str]:
    return set(os.listdir("/dev/shm")) - before


@contextmanager
def nothing_left(host: WatchedHost) -> Iterator[None]:
    """Check that a host has got back all that it granted to whatever runs in the block, but for what is
    published: that is unlinked here."""
    before = host.counts()
    yield
    with shmclient.connect(host.socket_path) as shm:
        for info in shm.list():
            shm.unlink(info.name)

    wait_until(lambda: host.is_back_at(before), shown=lambda: {**host.counts(), "before": before})


CLIENT = """
import asyncio, contextlib, copy, gc, math, os, pickle, sys, threading
import cffi
import shmclient, shmclient.aio, shmhost
from shmclient import ClientClosed, PinReleased, RegionClosed

path = sys.argv[1]
ffi = cffi.FFI()
shm = shmclient.connect(path)

def refused(kind, text, *calls):
    for call in calls:
        try:
            result = eval(call, globals())
        except kind as error:
            assert text in str(error), f"{call}: {error}"
        else:
            raise AssertionError(f"{call} gave {result!r}")
"""


def run_client(script: str, host: WatchedHost, waits: int = 0) -> Ended:
    """Run a script that has a client, `shm`, of a host; it gets a line on its standard input once the host
    has so many waits."""
    with nothing_left(host):
        return run_script(CLIENT + script, host.socket_path, ready=lambda: count_waits(host) >= waits)
