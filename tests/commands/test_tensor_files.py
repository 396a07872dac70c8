"""`shmclient put` and `get` with `--format safetensors`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import shmclient
from command_support import call
from support import WatchedHost

TENSORS = {"a.weight": np.arange(50_000, dtype="<f4").reshape(100, 500), "b": np.ones(3, "|u1")}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A safetensors file."""
    file = str(tmp_path / "model.safetensors")
    safetensors.numpy.save_file(TENSORS, file)
    return file


@pytest.mark.parametrize("options", [(), ("--one",)], ids=["each a region", "all in one"])
def test_file_goes_in_and_comes_out(
    host: WatchedHost, shm: shmclient.Client, path: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    environ = {"SHMHOST_SOCKET": host.socket_path}
    stored = call(
        "shmclient", "put", "--format", "safetensors", "m/1", path, "--mode", "640", *options, environ=environ
    )
    text = "m/1 generation 1: 2 tensors" if options else "m/1/: 2 regions"
    assert (stored.returncode, stored.stdout, stored.stderr) == (0, f"{text}, 200003 bytes\n", "")
    names = ["m/1"] if options else ["m/1/a.weight", "m/1/b"]
    assert [(info.name, info.mode) for info in shm.list()] == [(name, 0o640) for name in names]
    weight = shm.get("m/1")["a.weight"] if options else shm.get("m/1/a.weight")
    assert np.array_equal(weight, TENSORS["a.weight"])
    file = str(tmp_path / "again")
    fetched = call(
        *("shmclient", "get", "--format", "safetensors", "m/1", "-o", file, "--metadata", "format=pt"),
        environ=environ,
    )
    assert (fetched.returncode, fetched.stdout, fetched.stderr) == (0, "", "")
    again = shmclient.read_safetensors(file)
    assert again.metadata == {"format": "pt"}
    assert all(np.array_equal(again[name], array) for name, array in TENSORS.items())
    shutil.copy(file, path)
    assert safetensors.numpy.load_file(path).keys() == TENSORS.keys()


def test_wrong_use_is_explained(host: WatchedHost, shm: shmclient.Client, path: str, tmp_path: Path) -> None:
    environ = {"SHMHOST_SOCKET": host.socket_path}
    file = str(tmp_path / "out")
    no_file = call("shmclient", "put", "--format", "safetensors", "m", __file__, environ=environ)
    assert no_file.returncode == 1
    assert "test_tensor_files.py: a header of" in no_file.stderr
    alone = call("shmclient", "put", "--one", "m", path, environ=environ)
    assert (alone.returncode, "--one is for --format safetensors" in alone.stderr) == (2, True)
    missing = call("shmclient", "get", "--format", "safetensors", "m", "-o", file, environ=environ)
    assert missing.returncode == 4
    shm.put("text", {"x": "a text"})
    text = call("shmclient", "get", "--format", "safetensors", "text", "-o", file, environ=environ)
    assert (text.returncode, "'x' of 'text' is not an array but a str" in text.stderr) == (1, True)
