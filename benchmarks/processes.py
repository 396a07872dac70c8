"""Starts pinned processes for the length of a block: the host, the bare host of the yardstick."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # workers, whose memory is measured, import this module
    from benchmarks.measure import Call

ADDRESS = 0x600000000000  # of the yardstick, outside of our windows
ROOT = Path(__file__).resolve().parent.parent
START_S = 20.0
BASELINE = "_shm_bench_baseline"


@contextlib.contextmanager
def process(command: list[str], cpu: int | None, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, pinned, until the block ends; `ready` is the path of the socket that it serves.

    It has a process group of its own: Ctrl-C reaches the benchmark alone, which then ends it.
    """
    pinned = command if cpu is None else ["taskset", "-c", str(cpu), *command]
    child = subprocess.Popen(pinned, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    try:
        deadline = time.monotonic() + START_S
        while not os.path.exists(ready):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} does not serve {ready} (exit code {child.poll()})")
            time.sleep(0.01)
        yield child
    finally:
        end(child)
        Path(ready).unlink(missing_ok=True)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a process, by force after five seconds."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextlib.contextmanager
def host(folder: str, cpu: int, *flags: str) -> Iterator[tuple[str, int]]:
    """Run a host of ours on a CPU; gives its socket's path and its pid."""
    path = os.path.join(folder, f"ours-{cpu}.sock")
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", path, *flags]
    with process(command, cpu, path) as child:
        with contextlib.closing(connected(path)):
            pass
        yield path, child.pid


def connected(path: str) -> socket.socket:
    """Return a socket connected to a server that has its file already, but may not listen yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deadline = time.monotonic() + START_S
    while error := sock.connect_ex(path):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{path}: {os.strerror(error)}")
        time.sleep(0.01)
    return sock


@contextlib.contextmanager
def bare_host(folder: str, cpu: int) -> Iterator[tuple[str, int]]:
    """Run the bare host on a CPU; gives its socket's path and its pid."""
    compile_baseline(folder)
    path = os.path.join(folder, f"bare-{cpu}.sock")
    with process([sys.executable, str(ROOT / "benchmarks" / "baseline.py"), path], cpu, path) as child:
        yield path, child.pid


def bare_attach(folder: str, sock: socket.socket, size: int) -> Call:
    """Return the one C call: attach and detach an object of `size` bytes of the bare host in the folder."""
    library, descriptor = baseline(folder).lib, sock.fileno()
    library.reserve(ADDRESS, size)

    def call() -> None:
        if library.attach_detach(descriptor, ADDRESS, size):
            raise RuntimeError("the yardstick failed")

    return call


def compile_baseline(folder: str) -> None:
    """Compile the yardstick into the folder, unless it is there."""
    from benchmarks._baseline_build import ffibuilder

    if not list(Path(folder).glob(f"{BASELINE}*.so")):
        ffibuilder.compile(tmpdir=folder, verbose=False)


@functools.cache
def baseline(folder: str) -> ModuleType:
    """Import the yardstick from the folder."""
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(BASELINE)
    finally:
        sys.path.remove(folder)


def cpu_us(pid: int) -> float:
    """Return the CPU time of all threads of a process in microseconds, from the scheduler's own account."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_bytes().split()[0])
    return total / 1000
