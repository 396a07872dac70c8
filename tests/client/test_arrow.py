"""Arrow data goes through regions and arenas, and what libraries make of it has the buffers of the region."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import shmclient
import shmclient.aio
from shmclient import Arena
from support import WatchedHost, wait_until

pa = pytest.importorskip("pyarrow")

from arrow_support import addresses  # noqa: E402

TABLE = pa.table(
    {
        "id": pa.array(range(10_000)),
        "name": [f"name {number}" for number in range(10_000)],
        "tags": pa.array([["a", "b"], None, []] * 3333 + [["c"]]),
    }
)


def inside(value: Any, region: shmclient.Region) -> bool:
    """Whether all buffers of what pyarrow makes of a value lie in a region, as it is mapped here."""
    chunks = [chunk for column in pa.table(value).columns for chunk in column.chunks]
    places = [address for chunk in chunks for address in addresses(chunk)]
    end = region.address + region.capacity
    return len(places) >= 6 and all(region.address <= address < end for address in places)


def test_table_in_a_region_is_taken_without_a_copy(shm: shmclient.Client, other: shmclient.Client) -> None:
    region = shm.put("t", TABLE)
    value = other.get("t")
    assert pa.table(value).equals(TABLE)
    assert inside(value, region)
    assert repr(value) == "<ArrowValue of 10000 rows in 1 batch, columns id, name, tags>"
    assert region.metadata["format"] == "arrow"
    assert region.header.root == region.header.data
    assert region.header.root_size == 64


def test_table_in_an_arena_is_taken_without_a_copy(arena: Arena, other: shmclient.Client) -> None:
    arena["t"] = TABLE
    value = other.get("camera/t")
    assert pa.table(value).equals(TABLE)
    handle = other.open("camera/t")
    places = addresses(pa.table(value)["name"].chunk(0))
    assert all(handle.address <= address < handle.address + handle.size for address in places)
    assert pa.table(arena["t"]).equals(TABLE)


def test_newer_table_in_an_arena_leaves_the_older_as_it_was(arena: Arena, other: shmclient.Client) -> None:
    arena["t"] = TABLE
    older = pa.table(other.get("camera/t"))
    for number in range(20):
        arena["t"] = TABLE.slice(number)
    assert older.equals(TABLE)
    assert pa.table(other.get("camera/t")).equals(TABLE.slice(19))


def test_dict_has_tables_beside_arrays(shm: shmclient.Client, arena: Arena) -> None:
    value = {"t": TABLE, "x": np.arange(5), "u": TABLE.slice(5, 9)}
    shm.put("d", value)
    arena["d"] = value
    for back in (shm.get("d"), arena["d"]):
        assert pa.table(back["t"]).equals(TABLE)
        assert pa.table(back["u"]).equals(TABLE.slice(5, 9))
        assert back["x"].tolist() == [0, 1, 2, 3, 4]


RELOCATED = """
import ctypes, sys
import pyarrow as pa
base = int(sys.argv[2])
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
FIXED_PRIVATE_ANONYMOUS = 0x10 | 0x02 | 0x20
assert libc.mmap(base, 4096, 0, FIXED_PRIVATE_ANONYMOUS, -1, 0) == base
import shmclient
with shmclient.connect(sys.argv[1]) as shm:
    assert shm.open("t", anywhere=True).is_relocated
    table = pa.table(shm.get("t", anywhere=True))
assert table["name"][9].as_py() == "name 9"
assert table["tags"].chunk(0).values.to_pylist()[-2:] == ["b", "c"]
"""


def test_relocated_table_is_read_where_it_is(host: WatchedHost, shm: shmclient.Client) -> None:
    region = shm.put("t", TABLE)
    command = [sys.executable, "-c", RELOCATED, host.socket_path, str(region.address)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (result.returncode, result.stderr) == (0, "")


async def test_async_client_puts_and_gets_tables(ashm: shmclient.aio.AsyncClient) -> None:
    region = await ashm.put("t", TABLE)
    value = await ashm.get("t")
    assert pa.table(value).equals(TABLE)
    assert inside(value, region)  # type: ignore[arg-type]


def test_many_are_got_and_followed(shm: shmclient.Client) -> None:
    shm.put("a", TABLE)
    shm.put("b", TABLE.slice(1))
    assert [len(value) for value in shm.get_many(["a", "b"])] == [10_000, 9_999]
    follower = iter(shm.follow("a"))
    assert len(next(follower)) == 10_000
    shm.put("a", TABLE.slice(7))
    assert len(next(follower)) == 9_993


def test_array_comes_back_as_one_array(shm: shmclient.Client) -> None:
    shm.put("a", pa.array([1, None, 3]))
    assert pa.array(shm.get("a")).to_pylist() == [1, None, 3]
    assert pa.chunked_array(shm.get("a")).to_pylist() == [1, None, 3]
    assert not hasattr(shm.put("t", TABLE).value(), "__arrow_c_array__")
    batch = TABLE.to_batches()[0]
    shm.put("b", batch)
    assert pa.record_batch(shm.get("b")).equals(batch)


def test_table_keeps_its_memory_when_client_and_name_are_gone(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as client:
        client.put("t", TABLE).close()
        column = pa.table(client.get("t"))["tags"].chunk(0).values
        client.unlink("t")
    gc.collect()
    assert host.counts()["regions"] == 1
    assert column.equals(TABLE["tags"].chunk(0).values)
    thread = threading.Thread(target=lambda held: held.clear(), args=([column],))
    del column
    thread.start()
    thread.join()
    wait_until(lambda: host.counts()["regions"] == 0)


def test_lease_ends_with_the_last_array(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("t", TABLE).close()
    held = [pa.table(shm.get("t"))]
    gc.collect()
    assert host.counts()["leases"] == 1
    held.append(held[0]["id"].chunk(0))
    del held[0]
    assert host.counts()["leases"] == 1
    held.clear()
    wait_until(lambda: host.counts()["leases"] == 0)


def test_stream_that_is_not_read_leaves_nothing(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("t", TABLE).close()
    value = shm.get("t")
    capsules = [value.__arrow_c_stream__(), value.__arrow_c_schema__()]
    del value
    assert host.counts()["leases"] == 1
    del capsules
    wait_until(lambda: host.counts()["leases"] == 0)


def test_failing_producer_is_an_error_with_its_text(shm: shmclient.Client) -> None:
    def batches() -> Any:
        yield TABLE.to_batches()[0]
        raise ValueError("the disk is gone")

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    with pytest.raises((OSError, ValueError), match="the disk is gone"):
        shm.put("t", reader)


def test_value_says_what_to_do_instead_of_pickling(shm: shmclient.Client) -> None:
    shm.put("t", TABLE)
    with pytest.raises(TypeError, match="pass its name"):
        pickle.dumps(shm.get("t"))


# --- other libraries


def test_polars_takes_and_gives_frames(shm: shmclient.Client) -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": [1, 2, None], "s": ["x", None, "a text that is longer than a view"]})
    region = shm.put("f", frame)
    back = pl.DataFrame(shm.get("f"))
    assert back.equals(frame)
    (start,) = addresses(back["a"].to_arrow())[-1:]  # polars gives its own buffer
    assert region.address <= start < region.address + region.capacity
    assert pl.from_arrow(pa.table(shm.get("f"))).equals(frame)


def test_pandas_takes_and_gives_frames(shm: shmclient.Client) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2, 3], "s": ["x", "y", "z"]}, index=[5, 6, 7])
    region = shm.put("f", frame)
    table = pa.table(shm.get("f"))
    assert table.to_pandas().equals(frame)
    start = table.select(["a"]).to_pandas(split_blocks=True, zero_copy_only=True)["a"].to_numpy().ctypes.data
    assert region.address <= start < region.address + region.capacity


def test_duckdb_takes_values_and_gives_results(shm: shmclient.Client) -> None:
    duckdb = pytest.importorskip("duckdb")
    shm.put("t", TABLE)
    shared = shm.get("t")
    with duckdb.connect() as connection:
        result = connection.sql("select count(*) as n, max(id) as m from shared")
        shm.put("r", result)
    assert len(shared) == 10_000
    assert pa.table(shm.get("r")).to_pylist() == [{"n": 10_000, "m": 9_999}]


def test_nanoarrow_takes_values(shm: shmclient.Client) -> None:
    na = pytest.importorskip("nanoarrow")
    region = shm.put("t", TABLE)
    (batch,) = na.c_array_stream(shm.get("t"))
    assert na.Array(batch.child(0))[9].as_py() == 9
    assert region.address < batch.child(0).buffers[1] < region.address + region.capacity
    column = na.c_array_stream(shm.get("t")).get_next().child(1)
    assert na.Array(column)[3].as_py() == "name 3"


def test_tables_lie_in_lists_and_nested_dicts(shm: shmclient.Client, arena: Arena) -> None:
    value = [TABLE, {"deeper": (TABLE.slice(3), 7)}, pa.array([1, 2])]
    region = shm.put("l", value)
    arena["l"] = value
    for back in (shm.get("l"), arena["l"]):
        assert pa.table(back[0]).equals(TABLE)
        assert pa.table(back[1]["deeper"][0]).equals(TABLE.slice(3))
        assert pa.array(back[2]).to_pylist() == [1, 2]
    assert region.header.root_size == 0
