"""Tensors of torch are stored as arrays, with no copy before the write, and refused where DLPack refuses."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import shmclient
from shmclient import _codecs

torch: Any = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

FLOATS = "bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
TYPES = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 complex64 complex128"
MATRIX = torch.arange(24.0).reshape(1, 2, 3, 4)


@pytest.mark.parametrize("name", [*TYPES.split(), *FLOATS.split()])
def test_tensor_of_each_type_comes_back_with_it(shm: shmclient.Client, name: str) -> None:
    tensor = torch.arange(1, 9).to(getattr(torch, name))
    shm.put("t", tensor)
    value = shm.get("t")
    assert value.dtype.name == name
    assert value.tobytes() == bytes(tensor.view(torch.uint8).tolist())


@pytest.mark.parametrize(
    "tensor",
    [
        MATRIX,
        MATRIX.to(memory_format=torch.channels_last),
        MATRIX[0, 0, :, ::2].t(),
        torch.ones(1).expand(3, 4),
        torch.zeros(0, 3),
        torch.tensor(3.5),
        torch.arange(10).view(2, 5).t(),
    ],
    ids=["compact", "channels_last", "slice", "expanded", "empty", "scalar", "transposed"],
)
def test_tensor_of_each_layout_comes_back_as_it_was(shm: shmclient.Client, tensor: Any) -> None:
    shm.put("t", {"x": [tensor]})
    value = shm.get("t")["x"][0]
    assert value.shape == tuple(tensor.shape)
    assert np.array_equal(value, tensor.numpy())


def test_memory_of_a_tensor_is_not_copied_before_it_is_written() -> None:
    tensor = torch.ones(100_000)
    ((_, chunk), *_) = _codecs.encode(tensor).chunks
    assert np.frombuffer(chunk, "u1").ctypes.data == tensor.data_ptr()


REFUSED: dict[str, Any] = {
    "grad": (lambda: torch.ones(3, requires_grad=True), r"torch\.Tensor.*use tensor\.detach\(\)"),
    "parameter": (lambda: torch.nn.Linear(2, 2).weight, r"Parameter.*use tensor\.detach\(\)"),
    "conjugate": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "conjugate bit"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "layout other than torch.strided"),
    "no memory": (lambda: torch.ones(3, device="meta"), "device type meta"),
    "packed": (lambda: torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "several in a byte"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tensor_that_dlpack_refuses_is_a_type_error(shm: shmclient.Client, name: str) -> None:
    make, text = REFUSED[name]
    if name == "packed" and not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this torch has no float4")
    with pytest.raises(TypeError, match=text):
        shm.put("t", make())
    assert "t" not in shm


def test_state_of_a_model_is_stored_as_one_region(shm: shmclient.Client) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
    shm.put("model", model.state_dict())
    assert {name: value.shape for name, value in shm.get("model").items()} == {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    }


def test_torch_takes_an_array_of_a_region_without_a_copy(shm: shmclient.Client) -> None:
    region = shm.put("t", MATRIX)
    tensor = torch.from_dlpack(shm.get("t"))
    assert region.address < tensor.data_ptr() < region.address + region.capacity
    region.close()
    shm.unlink("t")
    gc.collect()
    assert torch.equal(tensor, MATRIX)  # it keeps the region


WRITE = """
import sys, torch, shmclient
with shmclient.connect(sys.argv[1]) as shm:
    tensor = torch.from_dlpack(shm.get("t"))
    print(tensor.sum().item(), flush=True)
    tensor.zero_()
"""


def test_write_by_dlpack_ends_the_process_and_changes_nothing(shm: shmclient.Client) -> None:
    """The array says that it is read-only; torch drops that. The pages are read-only, whoever writes."""
    shm.put("t", torch.ones(4))
    result = subprocess.run(
        [sys.executable, "-c", WRITE, shm.socket_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (-11, "4.0\n")
    assert shm.get("t").tolist() == [1, 1, 1, 1]
