"""The table of docs/values.md: each row comes out of a region without a copy, by a second client."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import pytest
from test_as_arrays import is_private_view

import shmclient
from shmclient.shared_memory import SharedMemory
from support import WatchedHost, close_shared_clients

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "values.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+?) \| [^|]+? \| (0|-) \|$", PAGE, re.MULTILINE)
NUMBERS = np.arange(1000.0)


def library(name: str) -> Any:
    """Return a library that a row is about; a skip says that it is not here."""
    return pytest.importorskip(name, reason=f"NOT TESTED: {name} is not installed")


def where(array: Any) -> int:
    return int(np.asarray(array).__array_interface__["data"][0])


def inside(region: shmclient.Region, *arrays: Any) -> None:
    """Assert that all arrays lie in a region, as this process has it mapped."""
    end = region.address + region.capacity
    assert arrays
    assert all(region.address <= where(array) < end for array in arrays)


def bytes_like(put: shmclient.Client, get: shmclient.Client) -> None:
    with put.put("x", b"some bytes") as region:
        inside(region, get.get("x"))


def array(put: shmclient.Client, get: shmclient.Client) -> None:
    with put.put("x", NUMBERS) as region:
        inside(region, get.get("x"))


def scalars(put: shmclient.Client, get: shmclient.Client) -> None:
    for value in ("text", 1, 2.5, True, None):
        put.put("x", value).close()
        assert get.get("x") == value


def dict_of_arrays(put: shmclient.Client, get: shmclient.Client) -> None:
    for count in (3, 100):
        with put.put("x", {str(number): NUMBERS for number in range(count)}) as region:
            inside(region, *get.get("x").values())


def nested(put: shmclient.Client, get: shmclient.Client) -> None:
    with put.put("x", {"a": [NUMBERS, ("b", NUMBERS)]}) as region:
        first, (_, second) = get.get("x")["a"]
        inside(region, first, second)


def arrow(put: shmclient.Client, get: shmclient.Client) -> None:
    pa = library("pyarrow")
    with put.put("x", pa.table({"n": NUMBERS, "t": ["a"] * 1000})) as region:
        columns = pa.table(get.get("x")).columns
        inside(region, *(buffer for each in columns for buffer in each.chunk(0).buffers() if buffer))


def polars(put: shmclient.Client, get: shmclient.Client) -> None:
    pl = library("polars")
    with put.put("x", pl.DataFrame({"n": NUMBERS})) as region:
        inside(region, pl.DataFrame(get.get("x"))["n"].to_numpy(allow_copy=False))


def pandas(put: shmclient.Client, get: shmclient.Client) -> None:
    pd, pa = library("pandas"), library("pyarrow")
    with put.put("x", pd.DataFrame({"n": NUMBERS})) as region:
        frame = pa.table(get.get("x")).to_pandas(split_blocks=True)
        inside(region, frame["n"].to_numpy())


def duckdb(put: shmclient.Client, get: shmclient.Client) -> None:
    duckdb, pa = library("duckdb"), library("pyarrow")
    connection = duckdb.connect()
    with connection, put.put("x", connection.sql("select i * 2 as n from range(1000) r(i)")) as region:
        value = get.get("x")
        assert connection.sql("select sum(n) from value").fetchall() == [(999_000,)]
        inside(region, pa.table(value)["n"].chunk(0).buffers()[1])


def torch(put: shmclient.Client, get: shmclient.Client) -> None:
    library("torch")
    import torch

    with put.put("x", torch.arange(1000)) as region:
        assert is_private_view(get.get("x", as_="torch").data_ptr(), region)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is read-only, by some versions
            inside(region, torch.from_dlpack(get.get("x")))


def jax(put: shmclient.Client, get: shmclient.Client) -> None:
    library("jax")
    import jax

    with put.put("x", jax.numpy.arange(1000)) as region:
        inside(region, get.get("x", as_="jax"))


def objects(put: shmclient.Client, get: shmclient.Client) -> None:
    with put.put_object("x", {"a": NUMBERS, "b": {1, 2}}) as region:
        inside(region, get.get_object("x", allow_pickle=True)["a"])


def structs(put: shmclient.Client, get: shmclient.Client) -> None:
    ffi = cffi.FFI()
    ffi.cdef("struct node { struct node *next; int64_t number; };")
    with put.create("x", 4096) as builder:
        last = builder.new(ffi, "struct node *", {"number": 1})
        builder.set_root(builder.new(ffi, "struct node *", {"next": last, "number": 2}))
    with get.open("x") as region:
        root = region.root(ffi, "struct node *")
        assert (root.number, root.next.number) == (2, 1)
        assert region.address < int(ffi.cast("uintptr_t", root.next)) < region.address + region.capacity


def segment(put: shmclient.Client, get: shmclient.Client) -> None:
    first = SharedMemory(create=True, size=8000)
    other = SharedMemory(first.name)
    array = np.ndarray(1000, "f8", other.buf)
    np.ndarray(1000, "f8", first.buf)[:] = NUMBERS
    assert array.sum() == NUMBERS.sum()
    del array
    other.close()
    first.close()
    first.unlink()
    close_shared_clients()


CHECKS: dict[str, Callable[[shmclient.Client, shmclient.Client], None]] = {
    "bytes, bytearray, memoryview, mmap": bytes_like,
    "array of NumPy, any dtype but objects": array,
    "text, numbers, bool, None": scalars,
    "dict of arrays": dict_of_arrays,
    "lists, tuples and dicts, nested": nested,
    "table of pyarrow": arrow,
    "frame of polars": polars,
    "frame of pandas": pandas,
    "result of DuckDB": duckdb,
    "tensor of torch": torch,
    "array of jax": jax,
    "object (`put_object`, pickle 5)": objects,
    "structs with pointers (`create`)": structs,
    "`shared_memory.SharedMemory`": segment,
}


def test_each_row_has_a_check() -> None:
    assert [row for row, _ in ROWS] == list(CHECKS)


@pytest.mark.parametrize("row", CHECKS)
def test_row_comes_out_without_a_copy(
    row: str,
    host: WatchedHost,
    shm: shmclient.Client,
    other: shmclient.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHMHOST_SOCKET", host.socket_path)
    CHECKS[row](shm, other)
