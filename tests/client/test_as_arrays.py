"""`as_` gives the arrays of other libraries, over the pages of a region: writes are for one process alone."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import shmclient
import shmclient.aio
from shmclient import Arena
from shmclient._regions.private import private_view
from support import WatchedHost, wait_until

MATRIX = np.arange(20_000, dtype="<f4").reshape(100, 200)
TREE = {"a": MATRIX, "b": [MATRIX.T, (1, "x", np.zeros((0, 3)))], "c": b"bytes", "d": np.array(2.5)}
LARGE = {f"layer {number}": np.full(1000, number, "<i4") for number in range(100)}


def mapping_of(address: int) -> list[str]:
    """Return the words of the line of /proc/self/maps in which an address lies."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return line.split()
    raise AssertionError(f"{address:#x} is not mapped")


def mappings_of(name: str) -> list[str]:
    """Return the lines of the mappings of a region's memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if f"/memfd:shmhost:{name} " in line]


def private_bytes(address: int) -> int:
    """Return how much of the mapping of an address was copied, because it was written."""
    start = mapping_of(address)[0]
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.startswith(start))
    return int(next(line for line in lines if line.startswith("Anonymous:")).split()[1]) * 1024


def is_private_view(address: int, region: shmclient.Region) -> bool:
    """Whether an address lies in a private mapping of the pages of a region, and all of them are shared."""
    words = mapping_of(address)
    return (
        words[1] == "rw-p"
        and int(words[4]) == os.fstat(region.fileno()).st_ino
        and private_bytes(address) == 0
    )


@pytest.fixture
def torch() -> Iterator[Any]:
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch")


@pytest.fixture
def jax() -> Iterator[Any]:
    return pytest.importorskip("jax", reason="jax is not installed: pip install jax")


def test_private_memory_has_the_pages_of_a_region_until_it_is_written(shm: shmclient.Client) -> None:
    region = shm.put("t", MATRIX)
    keeper = region.data
    start = mmap.PAGESIZE + 64
    memory = private_view(region.fileno(), start, MATRIX.nbytes - 64, keeper)
    array = np.frombuffer(memory, "<f4")
    assert array[0] == 16
    assert is_private_view(array.ctypes.data, region)
    array[0] = -1
    assert private_bytes(array.ctypes.data) == mmap.PAGESIZE
    assert shm.get("t")[0, 16] == 16
    region.close()
    del keeper, memory
    gc.collect()
    assert array[1] == 17
    assert mappings_of("t")
    del array
    assert mappings_of("t") == []


def test_private_memory_keeps_the_lease_of_a_region(shm: shmclient.Client, host: WatchedHost) -> None:
    region = shm.put("t", MATRIX)
    memory = private_view(region.fileno(), 0, region.capacity, region.data)
    region.close()
    shm.unlink("t")
    assert host.counts()["leases"] == 1
    del memory
    wait_until(lambda: host.counts()["regions"] == 0)


def test_as_numpy_is_what_get_returns_without_it(shm: shmclient.Client) -> None:
    shm.put("t", TREE)
    value = shm.get("t", as_="numpy")
    assert np.shares_memory(value["a"], shm.get("t")["a"])
    assert not value["a"].flags.writeable


def test_unknown_library_is_refused_with_the_names_of_those_that_are_known(shm: shmclient.Client) -> None:
    shm.put("t", MATRIX)
    with pytest.raises(shmclient.InvalidArgument, match="'numpy', 'torch', 'jax', not 'tensorflow'"):
        shm.get("t", as_="tensorflow")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_library_that_is_missing_is_named(
    shm: shmclient.Client, name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shm.put("t", MATRIX)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        shm.get("t", as_=name)
    shm.put("text", "needs no library")
    assert shm.get("text", as_=name) == "needs no library"


def test_bytes_are_read_only_as_always_without_numpy(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("b", b"bytes")
    program = (
        "import sys, shmclient\n"
        "with shmclient.connect(sys.argv[1]) as shm:\n"
        "    print(shm.get('b', as_='torch').readonly, 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", program, host.socket_path]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True False\n"


def test_tensors_of_torch_have_the_pages_of_the_region(shm: shmclient.Client, torch: Any) -> None:
    region = shm.put("t", TREE)
    value = shm.get("t", as_="torch")
    first, second = value["a"], value["b"][0]
    assert torch.equal(first, torch.from_numpy(MATRIX.copy()))
    assert second.stride() == (1, 200)
    assert second.sum().item() == first.sum().item()
    assert is_private_view(first.data_ptr(), region)
    assert is_private_view(second.data_ptr(), region)
    assert value["b"][1][:2] == (1, "x")
    assert value["b"][1][2].shape == (0, 3)
    assert (bytes(value["c"]), value["c"].readonly) == (b"bytes", True)
    assert value["d"].item() == 2.5


def test_write_to_a_tensor_of_torch_is_for_this_process_alone(
    shm: shmclient.Client, other: shmclient.Client, torch: Any
) -> None:
    shm.put("t", MATRIX)
    tensor, again = shm.get("t", as_="torch"), shm.get("t", as_="torch")
    tensor.mul_(0)
    assert private_bytes(tensor.data_ptr()) >= MATRIX.nbytes
    assert tensor.abs().sum() == 0
    assert again[0, 5] == shm.get("t")[0, 5] == other.get("t")[0, 5] == 5


def test_tensor_of_torch_keeps_its_region(shm: shmclient.Client, host: WatchedHost, torch: Any) -> None:
    shm.put("t", MATRIX).close()
    row = shm.get("t", as_="torch")[3]
    shm.unlink("t")
    gc.collect()
    assert host.counts()["leases"] == 1
    assert row[1] == 601
    del row
    wait_until(lambda: host.counts()["regions"] == 0)
    assert mappings_of("t") == []


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_small_floats_are_those_of_torch(shm: shmclient.Client, torch: Any, name: str) -> None:
    array = np.arange(1, 9).astype(getattr(ml_dtypes, name)).reshape(2, 4)
    shm.put("t", [array, array[0, 0]])
    tensor, scalar = shm.get("t", as_="torch")
    assert (tensor.dtype, tensor.shape, scalar.shape) == (getattr(torch, name), (2, 4), ())
    assert tensor.float().tolist() == array.astype("f4").tolist()


def test_small_complex_tensors_come_back_to_torch(shm: shmclient.Client, torch: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them experimental
        tensor = torch.tensor([1, 2j, 3 + 4j]).to(torch.complex32)
        shm.put("t", tensor)
        value = shm.get("t", as_="torch")
        assert (value.dtype, value.to(torch.complex64).tolist()) == (torch.complex32, [1, 2j, 3 + 4j])


@pytest.mark.parametrize("dtype", [">f4", "<M8[s]", "<U3", "<f16", ml_dtypes.int4, ml_dtypes.float8_e3m4])
def test_dtypes_that_torch_does_not_have_are_refused(shm: shmclient.Client, torch: Any, dtype: Any) -> None:
    shm.put("t", {"x": np.zeros(3, dtype)})
    with pytest.raises(TypeError, match=r"torch has no arrays of dtype .*get\(\) without as_"):
        shm.get("t", as_="torch")
    assert shm.get("t")["x"].shape == (3,)


def test_large_dict_and_a_model_are_loaded_as_tensors(shm: shmclient.Client, torch: Any) -> None:
    shm.put("t", LARGE)
    value = shm.get("t", as_="torch")
    assert (type(value), len(value)) == (dict, 100)
    assert value["layer 7"].tolist() == [7] * 1000
    model, other = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
    region = shm.put("model", model.state_dict())
    other.load_state_dict(shm.get("model", as_="torch"), assign=True)
    assert torch.equal(other.weight, model.weight)
    assert is_private_view(other.weight.data_ptr(), region)
    other(torch.ones(1, 64)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=1.0).step()  # writes in place
    assert not torch.equal(other.weight, model.weight)
    assert np.array_equal(shm.get("model")["weight"], model.weight.detach().numpy())


def test_shared_region_is_written_by_a_tensor_of_torch(shm: shmclient.Client, torch: Any) -> None:
    with shm.create("t", 4096, seal="shared", mode=0o660) as builder:
        builder.array((4,), "<f4")[:] = 1
    tensor = shm.get("t", as_="torch")
    tensor[0] = 7
    assert shm.get("t").tolist() == [7, 1, 1, 1]


def test_region_that_grows_gives_tensors_of_what_there_is(
    shm: shmclient.Client, other: shmclient.Client, torch: Any
) -> None:
    with shm.create("t", 64, max_size=1 << 20, seal="writer") as builder:
        array = builder.array((4,), "<f4")
        array[:] = 1
    tensor = other.get("t", as_="torch")
    assert tensor.tolist() == [1, 1, 1, 1]
    array[0] = 5
    assert tensor[0] == 5
    tensor[1] = 7
    assert array[1] == 1
    builder.region.resize(1 << 16)
    assert other.get("t", as_="torch")[0] == 5


def test_value_of_an_arena_is_held_by_its_tensor(arena: Arena, other: shmclient.Client, torch: Any) -> None:
    arena["t"] = {"x": MATRIX}
    tensor = other.get("camera/t", as_="torch")["x"]
    words = mapping_of(tensor.data_ptr())
    assert (words[1], private_bytes(tensor.data_ptr())) == ("rw-p", 0)
    for number in range(20):  # the block would be used again
        arena["t"] = {"x": np.full_like(MATRIX, number)}
    assert torch.equal(tensor, torch.from_numpy(MATRIX.copy()))
    tensor.zero_()
    view = other.open_arena("camera")
    assert view.get("t", as_="torch")["x"][0, 0] == 19
    assert view.get("none", 5, as_="torch") == 5
    assert view["t"]["x"][99, 199] == 19


def test_tensor_of_an_arena_lets_go_of_its_block(arena: Arena, other: shmclient.Client, torch: Any) -> None:
    arena["t"] = MATRIX
    for number in range(100):  # more than the arena has room for
        tensor = other.get("camera/t", as_="torch")
        arena["t"] = np.full_like(MATRIX, number)
    assert tensor[0, 0] == 98


def test_many_names_are_taken_as_tensors(shm: shmclient.Client, torch: Any) -> None:
    for number in range(70):
        shm.put(f"t/{number}", np.full(3, number))
    names = [f"t/{number}" for number in range(70)]
    assert [int(tensor[0]) for tensor in shm.get_many(names, as_="torch")] == list(range(70))
    with shm.open("t/1") as region:
        assert region.value(as_="torch").dtype is torch.int64


@pytest.mark.anyio
async def test_async_client_gives_tensors(host: WatchedHost, anyio_backend: str, torch: Any) -> None:
    async with shmclient.aio.AsyncClient(host.socket_path) as shm:
        region = await shm.put("t", MATRIX)
        tensor = await shm.get("t", as_="torch")
        assert is_private_view(tensor.data_ptr(), region)
        assert [each[0, 1].item() for each in await shm.get_many(["t", "t"], as_="torch")] == [1, 1]
