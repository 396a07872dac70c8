"""Regions saved to files and loaded back: the address, the pointers, and all that belongs to the region."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import pytest

import shmclient
import shmclient.aio
import shmhost
from shmprotocol.abi import snapshot
from shmprotocol.abi.header import Header
from snapshot_support import read
from support import WatchedHost, watched_host

ffi = cffi.FFI()
ffi.cdef("struct node { struct node *next; int64_t number; };")


def build(shm: shmclient.Client, name: str, count: int = 3, **options: Any) -> int:
    """Publish a list of nodes, each pointing to the one before; return the region's address."""
    with shm.create(name, 64 * count, **options) as builder:
        node = ffi.NULL
        for number in range(count):
            node = builder.new(ffi, "struct node *", {"next": node, "number": number})
        builder.set_root(node)
        return builder.address


def numbers(region: Any) -> list[int]:
    node, content = region.root(ffi, "struct node *"), []
    while node != ffi.NULL:
        content.append(node.number)
        node = node.next
    return content


def test_pointers_are_valid_on_another_host(shm: shmclient.Client, tmp_path: Path) -> None:
    file, address = tmp_path / "list.shm", build(shm, "list", mode=0o640)
    size = shm.save("list", file)
    assert size == file.stat().st_size
    shm.unlink("list")
    with watched_host(str(tmp_path / "other.sock")) as other, shmclient.connect(other.socket_path) as theirs:
        region = theirs.load(file)
        assert (region.address, region.name) == (address, "list")
        assert numbers(region) == [2, 1, 0]
        info = theirs.stat("list")
        assert (info.mode, info.seal, info.backend) == (0o640, "full", "memfd")
        region.close()


def test_pointers_are_valid_after_a_restart(tmp_path: Path) -> None:
    path, file = str(tmp_path / "h.sock"), str(tmp_path / "list.shm")
    with watched_host(path), shmclient.connect(path) as shm:
        address = build(shm, "list")
        shm.save("list", file)
    with watched_host(path), shmclient.connect(path) as shm, shm.load(file) as region:
        assert (region.address, numbers(region)) == (address, [2, 1, 0])


VALUES = {
    "bytes": b"x" * 5000,
    "array": np.arange(300_000.0),
    "tree": {"a": [1, "two", None], "b": {"c": np.eye(3)}},
    "many": {f"key {number}": np.full(10, number) for number in range(100)},
}


@pytest.mark.parametrize("key", VALUES)
@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_value_comes_back_with_its_metadata_and_backend(
    shm: shmclient.Client, tmp_path: Path, key: str, backend: Any
) -> None:
    file = tmp_path / "v.shm"
    with shm.put("v", VALUES[key], backend=backend) as region:
        metadata, data = region.metadata, bytes(region.data)
    shm.save("v", file)
    shm.unlink("v")
    with shm.load(file) as region:
        assert (region.metadata, bytes(region.data)) == (metadata, data)
        assert type(region.value()) is type(shm.get("v"))
        assert shm.stat("v").backend == backend


@pytest.mark.parametrize("seal", ["writer", "shared"])
def test_seal_is_kept(shm: shmclient.Client, tmp_path: Path, seal: Any) -> None:
    address = build(shm, "list", seal=seal)
    shm.save("list", tmp_path / "f")
    shm.unlink("list")
    with shm.load(tmp_path / "f") as region:
        assert (region.address, numbers(region), shm.stat("list").seal) == (address, [2, 1, 0], seal)
        assert region.data.readonly == (seal == "writer")


@pytest.mark.anyio
async def test_async_client_saves_and_loads(host: WatchedHost, tmp_path: Path, anyio_backend: str) -> None:
    file = tmp_path / "f"
    async with shmclient.aio.AsyncClient(host.socket_path) as ashm:
        with await ashm.put("a", np.arange(1000)) as region:
            address = region.address
        assert await ashm.save("a", file) == file.stat().st_size
        await ashm.unlink("a")
        with await ashm.load(file, name="b") as region:
            assert (region.name, region.address) == ("b", address)
        assert (await ashm.get("b"))[999] == 999


def test_region_that_is_there_already_is_returned(shm: shmclient.Client, tmp_path: Path) -> None:
    build(shm, "list")
    shm.save("list", tmp_path / "f")
    before = shm.stat("list")
    for options in ({}, {"replace": False}, {"anywhere": True}):
        with shm.load(tmp_path / "f", **options) as region:
            assert (region.number, shm.stat("list").generation) == (before.number, before.generation)
    with pytest.raises(shmclient.AddressConflict, match=r"'list' \(.*has them"):
        shm.load(tmp_path / "f", name="other")


def test_address_that_is_taken_is_refused_with_the_name(shm: shmclient.Client, tmp_path: Path) -> None:
    build(shm, "list")
    shm.save("list", tmp_path / "f")
    with shm.open("list") as old:
        build(shm, "list", 5)  # a newer one, elsewhere
        generation = shm.stat("list").generation
        with pytest.raises(shmclient.AddressConflict) as caught:
            shm.load(tmp_path / "f")
        assert f"at {old.address:#x} are not free" in str(caught.value)
        assert re.search(rf"'list' \(.*superseded.*pid {os.getpid()}.*may use it: wait", str(caught.value))
        with pytest.raises(shmclient.AddressConflict, match="has pointers"):
            shm.load(tmp_path / "f", anywhere=True)
        assert shm.stat("list").generation == generation  # nothing was published
        address = old.address
    with shm.load(tmp_path / "f") as region:
        assert (region.address, numbers(region)) == (address, [2, 1, 0])


def test_value_without_pointers_may_lie_anywhere(shm: shmclient.Client, tmp_path: Path) -> None:
    with shm.put("a", VALUES["tree"]) as region:
        shm.save("a", tmp_path / "f")
        with shm.load(tmp_path / "f", name="b", anywhere=True) as copy:
            assert copy.address != region.address
            assert shm.get("b")["a"] == [1, "two", None]


def test_name_that_exists_is_not_replaced_unless_allowed(shm: shmclient.Client, tmp_path: Path) -> None:
    shm.put("a", b"1").close()
    shm.save("a", tmp_path / "f")
    shm.put("a", b"2").close()
    with pytest.raises(shmclient.RegionExists):
        shm.load(tmp_path / "f", replace=False)
    assert bytes(shm.get("a")) == b"2"


def test_host_of_another_window_refuses(shm: shmclient.Client, tmp_path: Path) -> None:
    build(shm, "list")
    shm.save("list", tmp_path / "f")
    path, windows = str(tmp_path / "o.sock"), ((0x660000000000, 1 << 30),)
    with watched_host(path, windows=windows), shmclient.connect(path) as other:
        with pytest.raises(shmclient.InvalidArgument, match=r"its windows are 0x660000000000 .*--window"):
            other.load(tmp_path / "f")
        assert other.list() == []


def test_host_that_ignores_the_address_is_too_old(
    shm: shmclient.Client, host: WatchedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shm.put("a", b"1").close()
    shm.save("a", tmp_path / "f")
    shm.unlink("a")
    registry, create = host.host.registry, type(host.host.registry).create
    monkeypatch.setattr(
        type(registry), "create", lambda self, request, peer: create(self, request._replace(address=0), peer)
    )
    before = host.counts()
    with pytest.raises(shmclient.Unsupported, match="gives no addresses"):
        shm.load(tmp_path / "f")
    shm.list()  # the host has seen the abort before this
    assert host.counts()["regions"] == before["regions"]


def test_arena_and_its_values_are_refused(shm: shmclient.Client, tmp_path: Path) -> None:
    with shm.arena("camera", 8 << 20) as arena:
        arena["front"] = b"1"
        for name in ("camera", "camera/front"):
            with pytest.raises(shmclient.Unsupported, match="put its values in regions"):
                shm.save(name, tmp_path / "f")
        with pytest.raises(shmclient.RegionNotFound):
            shm.save("camera/none", tmp_path / "f")
    assert list(tmp_path.glob("f*")) == []


def test_file_has_the_bytes_of_the_specification(shm: shmclient.Client, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "protocol" / "README.md").read_text("utf-8")
    block = readme.split("```hex snapshot\n")[1].split("```")[0]
    expected = bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))
    file = tmp_path / "f"
    shm.put("a", bytes(4000), mode=0o640).close()
    shm.save("a", file)
    header = read(file).header._replace(size=8192)
    assert snapshot.new_snapshot(header, "a", 0o640, 123456789, 0).pack()[:40] == expected
    assert file.read_bytes()[:16] == expected[:16]
    assert isinstance(header, Header)


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o400])
def test_file_has_the_mode_asked_for(shm: shmclient.Client, tmp_path: Path, mode: int) -> None:
    shm.put("a", b"1").close()
    before = os.umask(0o077)
    try:
        shm.save("a", tmp_path / "f", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["f", "host.sock", "host.sock.lock"] or "f" in os.listdir(tmp_path)


def test_holes_stay_holes(shm: shmclient.Client, tmp_path: Path) -> None:
    with shm.create("a", 64 << 20) as builder:
        builder.data[40 << 20] = 7
    del builder
    file = tmp_path / "f"
    shm.save("a", file)
    assert file.stat().st_blocks * 512 < 4 << 20
    shm.unlink("a")
    with shm.load(file) as region:
        assert os.fstat(region.fileno()).st_blocks * 512 < 4 << 20
        assert (region.data[40 << 20], region.data[1 << 20]) == (7, 0)


KILLED = """
import os, signal, sys
import shmclient
shm = shmclient.connect(sys.argv[1])
shm.save("a", sys.argv[2], progress=lambda done: done > 2 << 20 and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.parametrize("name", ["n" * 255, "\U0001f600" * 63], ids=["long", "of wide characters"])
def test_file_may_have_any_name_that_a_file_can_have(
    shm: shmclient.Client, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    path: Any = os.fsencode(folder / name)  # also as bytes
    size = shm.put("x", b"1").capacity
    assert shm.save("x", path) == size + 4096
    with shm.load(path) as region:
        assert bytes(region.data) == b"1"
    assert os.listdir(folder) == [name]
    with pytest.raises(shmclient.InvalidArgument, match="is a folder"):
        shm.save("x", os.fsencode(folder) + b"/")  # type: ignore[arg-type]


def test_killed_save_leaves_the_old_file(host: WatchedHost, shm: shmclient.Client, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    file = folder / "f"
    shm.put("a", b"old").close()
    shm.save("a", file)
    before = file.read_bytes()
    shm.put("a", os.urandom(8 << 20)).close()
    command = [sys.executable, "-c", KILLED, host.socket_path, str(file)]
    assert subprocess.run(command, timeout=50).returncode == -signal.SIGKILL
    assert (os.listdir(folder), file.read_bytes()) == (["f"], before)


def test_error_in_the_middle_leaves_the_old_file(shm: shmclient.Client, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    shm.put("a", bytes(8 << 20)).close()

    def stop(_done: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        shm.save("a", folder / "f", progress=stop)
    assert os.listdir(folder) == []
    shm.save("a", folder / "f")
    shm.unlink("a")
    with pytest.raises(RuntimeError, match="enough"):
        shm.load(folder / "f", progress=stop)
    assert shm.list() == []


def test_loaded_bytes_are_charged_as_all_are(tmp_path: Path) -> None:
    with shmhost.embedded(budget=64 << 20) as host, shmclient.connect(host.socket_path) as shm:
        shm.put("a", os.urandom(40 << 20)).close()
        shm.save("a", tmp_path / "f")
        shm.unlink("a")
        held = shm.put("b", bytes(40 << 20))
        with pytest.raises(shmclient.QuotaExceeded):
            shm.load(tmp_path / "f")
        shm.unlink("b")
        held.close()
        shm.load(tmp_path / "f").close()
