"""Whatever has `__dlpack__` is stored as an array: of any producer, shape, order and type that there is."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import shmclient
import shmclient.aio
from shmclient import Arena, _codecs
from support import WatchedHost
from tensor_support import CUDA, PADDED, READ_ONLY, Producer

MATRIX = np.arange(24, dtype="<f4").reshape(2, 3, 4)
SHAPES: dict[str, Any] = {
    "compact": MATRIX,
    "of no dimension": np.array(7, "<i8"),
    "of one item": np.ones((1, 1), "|u1"),
    "empty": np.zeros((0, 3), "<f8"),
    "empty inside": np.zeros((3, 0, 2), "<f8"),
    "transposed": MATRIX.T,
    "with gaps": MATRIX[:, ::2, 1:3],
    "backwards": MATRIX[::-1, :, ::-1],
    "channels last": np.transpose(MATRIX, (0, 2, 1)),
    "the same item again": np.broadcast_to(np.arange(3, dtype="<i2"), (4, 3)),
    "complex with gaps": np.arange(6, dtype="<c16")[::2],
    "large": np.arange(100_000, dtype="<i8"),
    "large and transposed": np.arange(100_000, dtype="<i8").reshape(100, 1000).T,
}
DTYPES = ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16"]
# DLPack's code and bits of the types that NumPy has from ml_dtypes.
OTHERS = {
    "bfloat16": (4, 16),
    "float8_e3m4": (7, 8),
    "float8_e4m3": (8, 8),
    "float8_e4m3b11fnuz": (9, 8),
    "float8_e4m3fn": (10, 8),
    "float8_e4m3fnuz": (11, 8),
    "float8_e5m2": (12, 8),
    "float8_e5m2fnuz": (13, 8),
    "float8_e8m0fnu": (14, 8),
    "float6_e2m3fn": (15, 6),
    "float6_e3m2fn": (16, 6),
    "float4_e2m1fn": (17, 4),
    "int4": (0, 4),
    "uint2": (1, 2),
}


def described(obj: object) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Return the metadata and the value, as a reader has them, of what was put."""
    encoded = _codecs.encode(obj)
    payload = bytearray(encoded.size)
    encoded.write(payload)
    metadata = _codecs.unpack_metadata(encoded.metadata)
    return metadata, _codecs.decode(metadata, memoryview(payload))


@pytest.mark.parametrize("major", [1, None], ids=["with a version", "without"])
@pytest.mark.parametrize("name", SHAPES)
def test_tensor_of_any_shape_comes_back_as_an_array(name: str, major: int | None) -> None:
    array = SHAPES[name]
    _, value = described(Producer(array, major=major))
    assert (value.dtype, value.shape) == (array.dtype, array.shape)
    assert np.array_equal(value, array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_of_any_number_comes_back_as_numpy_has_it(dtype: str) -> None:
    array = np.arange(1, 5).astype(dtype)
    metadata, value = described(Producer(array))
    assert metadata["dtype"] == dtype
    assert value.dtype == array.dtype
    assert np.array_equal(value, array)


@pytest.mark.parametrize("name", OTHERS)
def test_tensor_of_a_type_of_ml_dtypes_comes_back_as_that(name: str) -> None:
    code, bits = OTHERS[name]
    array = np.arange(2).astype(getattr(ml_dtypes, name))
    flags = PADDED if bits < 8 else 0
    _, value = described(Producer(array.view(f"u{array.itemsize}"), code=code, bits=bits, flags=flags))
    assert value.dtype == array.dtype
    assert value.tobytes() == array.tobytes()
    assert described(array)[0]["dtype"] == name  # the same description as of NumPy's


def test_order_of_a_tensor_is_kept_and_its_memory_is_not_copied() -> None:
    for array, order in ((SHAPES["large"], "C"), (SHAPES["large and transposed"], "F")):
        encoded = _codecs.encode(Producer(array))
        assert _codecs.unpack_metadata(encoded.metadata)["order"] == order
        (chunk,) = (chunk for _, chunk in encoded.chunks if chunk.nbytes == array.nbytes)
        assert np.frombuffer(chunk, "u1").ctypes.data == array.ctypes.data


def test_tensor_without_strides_and_with_an_offset_is_compact() -> None:
    for producer in (Producer(MATRIX, strides=False), Producer(MATRIX, byte_offset=16)):
        assert np.array_equal(described(producer)[1], MATRIX)


def test_read_only_tensor_is_stored() -> None:
    assert np.array_equal(described(Producer(MATRIX, flags=READ_ONLY))[1], MATRIX)


def test_tensor_is_kept_until_its_bytes_are_written_and_freed_then() -> None:
    producer = Producer(SHAPES["large"])
    encoded = _codecs.encode(producer)
    gc.collect()
    assert producer.freed == 0
    chunks = encoded.chunks
    del encoded
    gc.collect()
    assert producer.freed == 0
    assert chunks[0][1][8] == 1
    del chunks
    assert producer.freed == 1


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another device": (
        lambda: Producer(MATRIX, device=CUDA),
        r"Producer is on the device CUDA:0.*x\.cpu\(\)",
    ),
    "unknown device": (lambda: Producer(MATRIX, device=99), r"type 99:0"),
    "lanes": (lambda: Producer(MATRIX, lanes=4), r"type 2 with 32 bits and 4 lanes cannot be stored"),
    "handles": (lambda: Producer(np.zeros(3, "u8"), code=3), r"type 3 with 64 bits.*x\.view\(torch\.uint8\)"),
    "odd bits": (lambda: Producer(np.zeros(3, "u4"), bits=24), r"type 1 with 24 bits"),
    "packed": (lambda: Producer(np.zeros(3, "u1"), code=0, bits=4), r"4 bits and 1 lanes, several in a byte"),
    "later version": (lambda: Producer(MATRIX, major=2), r"speaks DLPack 2\.0: install a later shmhost"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tensor_that_cannot_be_stored_is_refused_with_advice(name: str) -> None:
    make, text = REFUSED[name]
    with pytest.raises(TypeError, match=text):
        _codecs.encode(make())


class Failing(Producer):
    """A producer whose export fails, as torch's does for a tensor that requires grad."""

    def __dlpack__(self, **options: Any) -> object:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")


class Used(Producer):
    """A producer whose capsule is used up."""

    def __dlpack__(self, **options: Any) -> object:
        return object()


def test_errors_of_a_producer_are_told() -> None:
    with pytest.raises(TypeError, match=r"test_tensors\.Failing cannot be stored: .*use tensor\.detach\(\)"):
        _codecs.encode(Failing(MATRIX))
    with pytest.raises(TypeError, match=r"Used cannot be stored: this is not a capsule"):
        _codecs.encode(Used(MATRIX))


def test_producer_without_a_device_is_refused_with_advice() -> None:
    class Half:
        def __dlpack__(self) -> object:
            raise AssertionError("its device is asked for first")

    with pytest.raises(TypeError, match=r"Half cannot be stored: .*__dlpack_device__.*np\.asarray"):
        described(Half())


def test_subclass_of_numpys_arrays_does_not_lose_what_it_holds_by_dlpack() -> None:
    with pytest.raises(TypeError, match="mask"):
        _codecs.encode(np.ma.masked_array([1, 2], [True, False]))


def test_tensors_go_through_regions_and_inside_of_values(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    shm.put("t", Producer(MATRIX.T))
    assert np.array_equal(other.get("t"), MATRIX.T)
    shm.put("d", {"a": Producer(MATRIX), "b": [Producer(MATRIX.T), (1, {"c": Producer(SHAPES["large"])})]})
    value = other.get("d")
    assert np.array_equal(value["a"], MATRIX)
    assert np.array_equal(value["b"][0], MATRIX.T)
    assert np.array_equal(value["b"][1][1]["c"], SHAPES["large"])
    assert not value["a"].flags.writeable
    with pytest.raises(TypeError, match=r"'x': .*on the device CUDA"):
        shm.put("e", {"x": Producer(MATRIX, device=CUDA)})
    assert [info.name for info in other.list()] == ["d", "t"]


@pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy 2.0 exports no read-only arrays"
)
def test_array_of_a_region_says_by_dlpack_that_it_is_read_only(shm: shmclient.Client, arena: Arena) -> None:
    region = shm.put("t", MATRIX)
    arena["t"] = MATRIX
    for value in (shm.get("t"), shm.get("camera/t")):
        taken = np.from_dlpack(value)
        assert np.shares_memory(taken, value)
        assert not taken.flags.writeable
    assert region.address < np.from_dlpack(shm.get("t")).ctypes.data < region.address + region.capacity
    with pytest.raises(BufferError, match="readonly"):
        shm.get("t").__dlpack__()  # without a version there is no way to say so


def test_tensors_go_through_arenas(arena: Arena, other: shmclient.Client) -> None:
    arena["t"] = Producer(SHAPES["large"])
    arena["d"] = {"a": [Producer(MATRIX.T)]}
    assert np.array_equal(other.get("camera/t"), SHAPES["large"])
    assert np.array_equal(other.get("camera/d")["a"][0], MATRIX.T)


@pytest.mark.anyio
async def test_tensors_go_through_the_async_client(host: WatchedHost, anyio_backend: str) -> None:
    async with shmclient.aio.AsyncClient(host.socket_path) as shm:
        await shm.put("t", Producer(SHAPES["large"]))
        assert np.array_equal(await shm.get("t"), SHAPES["large"])
        first, second = await shm.get_many(["t", "t"])
        assert first[7] == second[7] == 7
        async for value in shm.follow("t"):
            assert value[-1] == 99_999
            break
