"""Regions as notebooks use them: cells run again, frames of errors live on, nobody deletes arrays."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support import WatchedHost, wait_until

# Runs cells as a notebook does, each a line of JSON: names live on, and so does the last error's traceback.
# `out` is what a cell has to show.
KERNEL = """
import code, json, sys
shell = code.InteractiveInterpreter({})
for line in sys.stdin:
    shell.locals["out"] = sys.last_type = None
    shell.runcode(compile(json.loads(line), "<cell>", "exec"))
    print(json.dumps([getattr(sys.last_type, "__name__", None), shell.locals["out"]]), flush=True)
"""
SETUP = """
import os, signal, sys
import numpy as np
import shmclient
shm = shmclient.connect({path!r})
shm.put("w", b"").close()  # from then on a thread watches the host
shm.unlink("w")

def is_fatal(write):
    pid = os.fork()
    if pid == 0:
        write()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSEGV

def descriptors():  # but for a board, which is kept until it is looked at
    paths = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(path) and "board:shmhost" not in os.readlink(path) for path in paths)

def mappings():
    return sum("shmhost:" in line for line in open("/proc/self/maps"))
"""
FILL = """
with shm.create("x", 4096) as builder:
    array = np.frombuffer(builder.data, "f4")
    array[:] = {value}
"""
FAIL = """
with shm.create("x", 4096) as builder:
    array = np.frombuffer(builder.data, "f4")
    array[:] = {value}
    1 / 0
"""
READ = "out = float(np.frombuffer(shm.get('x'), 'f4').sum())"
CLEAN = """
for name in ("array", "old", "builder", "first"):
    globals().pop(name, None)
sys.last_traceback = sys.last_value = sys.last_exc = None
out = [descriptors(), mappings()]
"""


class Notebook:
    """A process that runs cells."""

    def __init__(self) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", KERNEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, cell: str) -> Any:
        """Run a cell and return its `out`; it must not fail."""
        error, out = self._send(cell)
        assert error is None, f"{error} in {cell}"
        return out

    def fail(self, cell: str) -> str | None:
        """Run a cell and return the name of its error."""
        return self._send(cell)[0]

    def _send(self, cell: str) -> tuple[str | None, Any]:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        print(json.dumps(cell), file=self.child.stdin, flush=True)
        error, out = json.loads(self.child.stdout.readline())
        return error, out

    def close(self) -> None:
        self.child.communicate()


@pytest.fixture
def notebook(host: WatchedHost) -> Iterator[Notebook]:
    running = Notebook()
    running.run(SETUP.format(path=host.socket_path))
    yield running
    running.close()


def test_cell_that_fills_an_array_runs_again(host: WatchedHost, notebook: Notebook) -> None:
    before = host.counts(), notebook.run(CLEAN)
    for value in (1, 2):
        notebook.run(FILL.format(value=value))
        assert notebook.run(READ) == value * 1024
    assert notebook.run("out = is_fatal(lambda: array.fill(3))")
    assert notebook.run("out = float(array[0])") == 2
    assert notebook.run(CLEAN + "shm.unlink('x'); out = [descriptors(), mappings()]") == before[1]
    wait_until(lambda: host.counts() == before[0])


def test_array_of_an_older_generation_keeps_its_values(notebook: Notebook) -> None:
    notebook.run(FILL.format(value=1))
    notebook.run("old = array")
    notebook.run(FILL.format(value=2))
    assert notebook.run("out = [float(old[0]), float(array[0])]") == [1, 2]


def test_error_in_the_block_frees_the_name_at_once(host: WatchedHost, notebook: Notebook) -> None:
    before = host.counts(), notebook.run(CLEAN)
    assert notebook.fail(FAIL.format(value=1)) == "ZeroDivisionError"
    notebook.run("assert sys.last_traceback is not None; old = array; first = builder.address")
    assert notebook.fail(FAIL.format(value=2)) == "ZeroDivisionError"
    notebook.run(FILL.format(value=3))
    assert notebook.run(READ) == 3 * 1024
    assert notebook.run("out = builder.address != first")  # which is still mapped here
    notebook.run("old[:] = 7")  # what was given up is private memory, and as it was
    assert notebook.run("out = [float(old.sum()), float(array.sum())]") == [7 * 1024, 3 * 1024]
    assert host.counts()["tallies"]["aborted"][0] == 1  # the second one went with its last name
    assert notebook.run(CLEAN + "shm.unlink('x'); out = [descriptors(), mappings()]") == before[1]
    wait_until(lambda: host.counts() == before[0])


def test_traceback_that_keeps_a_view_does_not_keep_the_name(host: WatchedHost, notebook: Notebook) -> None:
    before = host.counts(), notebook.run(CLEAN)
    body = FAIL.format(value=1).replace("\n", "\n    ")
    assert notebook.fail(f"def build():{body}\nbuild()") == "ZeroDivisionError"
    assert notebook.run("out = 'array' in globals()") is False
    assert host.counts()["tallies"]["aborted"][0] == 1
    notebook.run(FILL.format(value=2))
    assert notebook.run(READ) == 2 * 1024
    assert notebook.run(CLEAN + "shm.unlink('x'); out = [descriptors(), mappings()]") == before[1]
    wait_until(lambda: host.counts() == before[0])


def test_name_that_another_failed_to_build_is_free_for_all(host: WatchedHost, notebook: Notebook) -> None:
    notebook.fail(FAIL.format(value=1))
    other = Notebook()
    other.run(SETUP.format(path=host.socket_path))
    other.run(FILL.format(value=2))
    assert notebook.run(READ) == 2 * 1024
    assert notebook.run("out = float(array[0])") == 1
    other.close()


def test_name_is_free_when_the_client_that_failed_is_closed(host: WatchedHost, notebook: Notebook) -> None:
    before = host.counts()
    notebook.fail(FAIL.format(value=1))
    notebook.run("old = array; shm.close(); again = shmclient.connect(shm.socket_path); shm = again")
    notebook.run(FILL.format(value=2))
    assert notebook.run("out = float(np.frombuffer(shm.get('x'), 'f4')[0])") == 2
    assert host.counts()["tallies"]["aborted"][0] == 1
    notebook.run(CLEAN + "shm.unlink('x')")
    wait_until(lambda: host.counts()["charged"] == before["charged"])
