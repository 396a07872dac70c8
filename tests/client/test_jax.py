"""Arrays of jax are stored as arrays of NumPy, by DLPack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import shmclient

jax: Any = pytest.importorskip("jax", reason="jax is not installed: pip install jax")

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
