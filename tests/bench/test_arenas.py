"""The rows of arenas in `make bench`, with tiny sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import shmclient
from benchmarks import arenas, memory, waking
from benchmarks.results import FLOOR, OURS
from support import WatchedHost


def test_rows_have_ours_and_a_floor(shm: shmclient.Client, host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as reader:
        with arenas.arena_of(shm, "values", 1 << 23) as arena:
            rows = [arenas.put(arena, 1 << 12, "4 KiB", 2, 3, 2, 1.1, None)]
            rows += [arenas.get_new(arena, reader), arenas.get_again(arena, reader)]
        rows += arenas.many(shm, reader, 200)

    keys = [row.key.removeprefix("arena/") for row in rows]
    many = ["put", "get", "put_many", "bytes", "put_fresh", "put_many_fresh"]
    assert keys == ["put/4096", "get_new", "get_again", *(f"many/{key}" for key in many)]
    assert all(row.figures[OURS].p50 > 0 for row in rows)
    assert [row.key for row in rows if FLOOR not in row.figures] == ["arena/many/bytes"]
    assert not shm.exists("values")
    assert not shm.exists("many")


def test_memory_is_that_of_all_processes(tmp_path: Path) -> None:
    row = memory.total(str(tmp_path), 0)

    assert 20 < row.figures[OURS].p50 < 1000


@pytest.mark.timeout(120)
def test_sleepers_are_woken_for_each_value(shm: shmclient.Client, host: WatchedHost) -> None:
    with tempfile.TemporaryDirectory(prefix="shm-bench-") as folder:
        rows = list(waking.rows(folder, host.socket_path, shm, 0, "one CPU", 4))

    assert [row.key for row in rows] == ["arena/wake/thread/one CPU", "arena/wake/loop/one CPU"]
    assert {row.figures[road].samples for row in rows for road in (OURS, FLOOR)} == {4 * waking.ROUNDS}
