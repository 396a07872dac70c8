"""Arrays of jax are stored as arrays of NumPy, by DLPack, and lie in the region when they are taken out.

`test_jax.py` runs these in a process of their own.
"""

from __future__ import annotations

import gc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import shmclient
from support import WatchedHost, wait_until

jax: Any = pytest.importorskip("jax", reason="jax is not installed: pip install jax")

MATRIX = np.arange(20_000, dtype="<f4").reshape(100, 200)

TYPES = "bool uint8 int32 float16 bfloat16 float32 complex64 float8_e4m3fn float8_e5m2"


@pytest.mark.parametrize("name", TYPES.split())
def test_array_of_each_type_comes_back_with_it(shm: shmclient.Client, name: str) -> None:
    array = jax.numpy.arange(1, 9).astype(name)
    shm.put("t", [array, {"x": array}])
    value = shm.get("t")[1]["x"]
    assert value.dtype == array.dtype
    assert value.tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("shape", [(3, 4), (), (0, 3)])
def test_array_of_each_shape_comes_back_as_it_was(shm: shmclient.Client, shape: tuple[int, ...]) -> None:
    array = jax.numpy.ones(shape).T
    shm.put("t", array)
    assert np.array_equal(shm.get("t"), np.asarray(array))


def test_types_that_dlpack_does_not_have_are_refused_with_advice(shm: shmclient.Client) -> None:
    array = jax.numpy.arange(4).astype("int4")
    with pytest.raises(TypeError, match=r"no DLPack equivalent; perhaps np\.asarray\(x\) can"):
        shm.put("t", array)
    shm.put("t", np.asarray(array))
    assert shm.get("t").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", ["<f4", "|b1", ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_arrays_of_jax_lie_in_the_region(shm: shmclient.Client, dtype: Any) -> None:
    region = shm.put("t", [MATRIX.astype(dtype)])
    (array,) = shm.get("t", as_="jax")
    assert region.address <= array.unsafe_buffer_pointer() < region.address + region.capacity
    assert array.shape == MATRIX.shape
    double = jax.jit(lambda x: x + x, donate_argnums=0)  # whose memory may be used for the result: not here
    assert double(array).shape == MATRIX.shape
    assert np.array_equal(shm.get("t")[0], MATRIX.astype(dtype))


def test_array_of_jax_keeps_its_region(shm: shmclient.Client, host: WatchedHost) -> None:
    shm.put("t", MATRIX).close()
    array = shm.get("t", as_="jax")
    shm.unlink("t")
    gc.collect()
    assert host.counts()["leases"] == 1
    assert array[0, 7] == 7
    del array

    def collected() -> bool:  # jax gives NumPy's memory back when the collector runs, or it is used again
        gc.collect()
        return bool(host.counts()["regions"] == 0)

    wait_until(collected)


def test_dtypes_that_jax_does_not_have_are_refused(shm: shmclient.Client) -> None:
    shm.put("t", np.zeros(3, "<M8[s]"))
    with pytest.raises(TypeError, match=r"jax has no arrays of dtype datetime64\[s\]"):
        shm.get("t", as_="jax")
