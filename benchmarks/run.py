"""`make bench`: the figures of this machine, as ratios to a yardstick measured in the same run.

Every process is pinned. A row alternates between ours and the yardstick, in rounds, so that a drift of
the machine's speed hits both.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pins
from rich import box
from rich.console import Console
from rich.table import Table
from timing import Row, paired

import shmclient
from shmprotocol.kernel.constants import MIB

ROUNDS, SAMPLES = 10, 1000
PUT_ROUNDS, PUT_SAMPLES = 10, 60
ADDRESS = 0x600000000000  # of the yardstick, outside of our windows
FOLDER = Path(__file__).resolve().parent


@contextlib.contextmanager
def process(*command: str, ready: str) -> Iterator[None]:
    """Run a process until the block ends; `ready` is the path of its socket."""
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not os.path.exists(ready):
            if child.poll() is not None:
                raise SystemExit(f"{command} ended with {child.returncode}")
            time.sleep(0.01)
        yield
    finally:
        child.terminate()
        child.wait()


@contextlib.contextmanager
def host(folder: str, cpu: int) -> Iterator[str]:
    """Run a host of ours on a CPU."""
    path = os.path.join(folder, "ours.sock")
    command = ("taskset", "-c", str(cpu), sys.executable, "-m", "shmhost", "serve", "--socket", path)
    with process(*command, ready=path):
        with contextlib.closing(_connected(path)):
            pass
        yield path


def _connected(path: str) -> socket.socket:
    """Return a socket connected to a host that has its file already, but may not listen yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while sock.connect_ex(path):
        time.sleep(0.01)
    return sock


@contextlib.contextmanager
def bare_host(folder: str, cpu: int, size: int) -> Iterator[Callable[[], None]]:
    """Run the bare host, and return the one C call against it."""
    native = _baseline(folder)
    path = os.path.join(folder, "bare.sock")
    with process(sys.executable, str(FOLDER / "baseline.py"), path, str(size), str(cpu), ready=path):
        sock = _connected(path)
        descriptor = sock.fileno()
        native.lib.reserve(ADDRESS, 16 * MIB)

        def call() -> None:
            if native.lib.attach_detach(descriptor, ADDRESS, size):
                raise SystemExit("the yardstick failed")

        yield call
        sock.close()


def _baseline(folder: str):  # type: ignore[no-untyped-def]
    sys.path.insert(0, str(FOLDER))
    from _baseline_build import ffibuilder

    ffibuilder.compile(tmpdir=folder, verbose=False)
    sys.path.insert(0, folder)
    return importlib.import_module("_shm_bench_baseline")


def bench_attach(client_cpu: int, host_cpu: int) -> Row:
    """Attach and detach a published region of 1 MiB."""
    os.sched_setaffinity(0, {client_cpu})
    with (
        tempfile.TemporaryDirectory() as folder,
        host(folder, host_cpu) as path,
        bare_host(folder, host_cpu, MIB + 4096) as bare,
        shmclient.connect(path) as shm,
    ):
        shm.put("bench", bytes(MIB))

        def attach_detach() -> None:
            shm.open("bench").close()

        ours, other = paired(attach_detach, bare, ROUNDS, SAMPLES)
    return Row("attach + detach, 1 MiB", f"{client_cpu}/{host_cpu}", ours, other, 1.5)


def bench_put(client_cpu: int, host_cpu: int) -> Row:
    """Put 1 MiB, against a `pwrite` of it into a fresh memfd and two round trips to the same host."""
    os.sched_setaffinity(0, {client_cpu})
    data = os.urandom(MIB)

    def bare_write() -> None:
        descriptor = os.memfd_create("bench", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, MIB)
        os.pwrite(descriptor, data, 0)
        os.close(descriptor)

    with (
        tempfile.TemporaryDirectory() as folder,
        host(folder, host_cpu) as path,
        shmclient.connect(path) as shm,
    ):
        put, write = paired(lambda: shm.put("bench", data).close(), bare_write, PUT_ROUNDS, PUT_SAMPLES)
        trip, _ = paired(lambda: shm.stat("bench"), lambda: None, PUT_ROUNDS, PUT_SAMPLES)
    # The aim is 1.3 times the write and two round trips: as a ratio to the sum of the two.
    yardstick = write + 2 * trip
    return Row("put, 1 MiB", f"{client_cpu}/{host_cpu}", put, yardstick, (1.3 * write + 2 * trip) / yardstick)


def main() -> None:
    """Print the table."""
    cpus = sorted(os.sched_getaffinity(0))
    first, other = cpus[0], cpus[-1]
    table = Table("figure", box=box.SIMPLE_HEAD)
    for column in ("client/host CPU", "ours us", "yardstick us", "ratio", "aim <="):
        table.add_column(column, justify="right")
    host_rows = (
        bench_attach(first, first),
        bench_attach(first, other),
        bench_put(first, first),
        bench_put(first, other),
    )
    pin_rows = list(pins.rows(first))
    for row in (*host_rows, *pin_rows):
        table.add_row(
            row.what,
            row.cpus,
            f"{row.ours:,.1f}",
            f"{row.yardstick:,.1f}",
            f"{row.ratio:.2f}",
            "" if row.aim is None else f"{row.aim:.2f}",
        )
    Console(width=110).print(
        table,
        "attach: the yardstick is one C call against a bare uvloop host, without checks or messages.",
        "put: the yardstick is memfd_create + pwrite, and two `stat` round trips to the same host.",
        "pin: the yardstick is ffi.from_buffer and ffi.release.",
        "iovec: the yardstick is os.preadv of the same buffers; then ffi.from_buffer for each and os.preadv.",
        f"check_pointers: {pins.NODES / pin_rows[-1].ours:,.1f} million objects a second; the yardstick is "
        "a loop in Python that follows one pointer of each and checks nothing.",
        sep="\n",
    )


if __name__ == "__main__":
    main()
