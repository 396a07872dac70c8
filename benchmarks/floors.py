"""The rows of `make bench` for sealed regions: each road of ours against the least that it could cost."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

import shmclient
from benchmarks import kernel
from benchmarks.measure import Call, Figure, paired
from benchmarks.processes import bare_attach, bare_host, connected, host
from benchmarks.results import FLOOR, OURS, Row

KIB, MIB = 1 << 10, 1 << 20
ROUNDS = 10
NAMES = 16
RESERVE = 64 * MIB


def rows(folder: str, first: int, other: int) -> Iterator[Row]:
    """Measure every row; the client runs on the first CPU, the host there too or on the other one."""
    for cpu in dict.fromkeys((first, other)):
        with ExitStack() as stack:
            path, _ = stack.enter_context(host(folder, cpu))
            shm = stack.enter_context(shmclient.connect(path))
            bare_path, _ = stack.enter_context(bare_host(folder, cpu))
            sock = stack.enter_context(connected(bare_path))
            bare = bare_attach(folder, sock, MIB + kernel.HEADER_SIZE)
            where = "one CPU" if cpu == first else "two CPUs"
            yield attach(shm, bare, where)
            yield put(shm, MIB, where, 60, 1.25)
            if cpu == first:
                yield put(shm, KIB, where, 300, 4.0, 60.0)
                yield open_many(shm, bare)
                yield get_again(shm)
                yield is_current(shm)
    if "reserve" in inspect.signature(shmclient.connect).parameters:
        yield put_with_reserve(folder, first, other)


def row(key: str, title: str, ours: Figure, floor: Figure, ratio: float | None, aim: float | None) -> Row:
    return Row(key, title, figures={OURS: ours, FLOOR: floor}, aim_ratio=ratio, aim=aim)


def attach(shm: shmclient.Client, bare: Call, where: str) -> Row:
    """Attach and detach 1 MiB, against one C call to a bare host."""
    shm.put("bench", bytes(MIB)).close()
    ours, floor = paired(lambda: shm.open("bench").close(), bare, ROUNDS, 500)
    return row(f"attach/{where}", f"attach + detach 1 MiB, {where}", ours, floor, 1.25, None)


def put(
    shm: shmclient.Client, size: int, where: str, samples: int, ratio: float, aim: float | None = None
) -> Row:
    """Replace a value, against the kernel's part of it."""
    data, text = os.urandom(size), "1 MiB" if size == MIB else "1 KiB"
    ours, floor = paired(lambda: shm.put("put", data).close(), lambda: kernel.put(data), ROUNDS, samples)
    return row(f"put/{size}/{where}", f"put {text}, {where}", ours, floor, ratio, aim)


def put_with_reserve(folder: str, first: int, other: int) -> Row:
    """Replace 1 MiB from a reserve that a thread fills on the other CPU, where the host runs too."""
    data = os.urandom(MIB)
    with host(folder, other) as (path, _):
        os.sched_setaffinity(0, {other})  # the threads that the client starts stay there
        with shmclient.connect(path, reserve=RESERVE) as shm:  # type: ignore[call-arg, unused-ignore]
            for _ in range(4):
                shm.put("put", data).close()
            os.sched_setaffinity(0, {first})
            ours, floor = paired(lambda: shm.put("put", data).close(), lambda: kernel.put(data), ROUNDS, 60)
    return row("put/reserve", "put 1 MiB, a reserve, two CPUs", ours, floor, 0.6, None)


def open_many(shm: shmclient.Client, bare: Call) -> Row:
    """Attach and detach 16 regions in one trip, for each; the floor attaches one after the other."""
    names = [f"many/{index}" for index in range(NAMES)]
    for name in names:
        shm.put(name, bytes(KIB)).close()

    def ours() -> None:
        for region in shm.open_many(names):
            region.close()

    mine, floor = paired(ours, lambda: [bare() for _ in names], ROUNDS, 50)
    title = "open_many of 16 names + close, each"
    return row("open_many", title, _each(mine, NAMES), _each(floor, NAMES), None, 8.0)


def get_again(shm: shmclient.Client) -> Row:
    """Get an array that is mapped and current, as a new array; the floor is NumPy's own new view."""
    shm.put("array", np.arange(1000, dtype="f8")).close()
    first = shm.get("array")
    assert shm.get("array") is not first
    ours, floor = paired(lambda: shm.get("array"), lambda: first[:], ROUNDS, 20, calls=500)
    return row("get_again", "get again, as a new array", ours, floor, None, 0.5)


def is_current(shm: shmclient.Client) -> Row:
    """Ask whether a region is current; the floor is a load from a memoryview."""
    word = memoryview(bytearray(64)).cast("Q")
    with shm.open("array") as region:
        ours, floor = paired(region.is_current, lambda: word[0], ROUNDS, 20, calls=500)
    return row("is_current", "is_current", ours, floor, None, 0.05)


def _each(figure: Figure, count: int) -> Figure:
    """Share the time of a call out to the items that it handles."""
    p50, p99, low, high = (value / count for value in (figure.p50, figure.p99, figure.low, figure.high))
    return Figure(p50, p99, low, high, figure.samples)
