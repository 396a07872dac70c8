# pyright: strict
"""A program of a user: all of the public names, for type checkers alone. Only test_types.py reads it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, assert_type

import shmclient
import shmclient.aio
import shmhost
import shmhost.testing
from shmclient import posix
from shmclient.shared_memory import ShareableList, SharedMemory, SharedMemoryManager


def regions(shm: shmclient.Client, ffi: Any) -> None:
    """Put, get, open, build."""
    assert_type(shm.put("a", b"1", mode=0o640, backend="shm", replace=False), shmclient.Region)
    assert_type(shm.put_object("a", object(), progress=print), shmclient.Region)
    assert_type(shm.get("a", wait=1, after=2, anywhere=True), Any)
    assert_type(shm.get_object("a", allow_pickle=True), Any)
    assert_type(shm.get_many(["a", "b"]), list[Any])
    assert_type(shm.open_many(("a", "b"), wait=1), list[shmclient.Region])
    with shm.open("a", wait=None) as region:
        assert_type(region, shmclient.Region)
        assert_type((region.name, region.generation, region.number), tuple[str, int, int])
        assert_type((region.size, region.capacity, region.address), tuple[int, int, int])
        assert_type((region.is_relocated, region.is_current()), tuple[bool, bool])
        assert_type((region.data, region.metadata), tuple[memoryview, dict[str, Any]])
        assert_type(
            (region.value(), region.array, region.header, region.root(ffi, "int *")),
            tuple[Any, Any, Any, Any],
        )
        assert_type((region.translate(1), region.fileno(), len(region)), tuple[int, int, int])
        assert_type(shmclient.check_pointers(region, ffi, "struct node *"), int)
        region.close()
    with shm.create("a", 4096, seal="shared", backend="memfd", keep=False) as builder:
        assert_type(builder, shmclient.RegionBuilder)
        assert_type((builder.name, builder.size, builder.capacity), tuple[str, int, int])
        assert_type((builder.address, builder.data_address, builder.fileno()), tuple[int, int, int])
        assert_type((builder.data, builder.alloc(8, align=8)), tuple[memoryview, int])
        assert_type(
            (builder.array((2, 3), "f8", "name"), builder.bytes(b"x"), builder.new(ffi, "int *", 1)),
            tuple[Any, Any, Any],
        )
        with shmclient.unchecked():
            builder.set_root(builder.new(ffi, "int *"))


def names(shm: shmclient.Client, path: Path) -> None:
    """List, watch, follow, save."""
    assert_type(shm.list("a/"), list[shmclient.RegionInfo])
    info = shm.stat("a")
    assert_type(info, shmclient.RegionInfo)
    assert_type((info.name, info.state, info.seal, info.backend), tuple[str, str, str, str])
    assert_type((info.number, info.generation, info.address, info.size), tuple[int, int, int, int])
    assert_type((info.capacity, info.uid, info.gid, info.mode), tuple[int, int, int, int])
    assert_type((info.leases, info.created_ns, info.creator_pid), tuple[int, int, int])
    assert_type((shm.exists("a"), "a" in shm, shm.fileno()), tuple[bool, bool, int])
    shm.chmod("a", 0o600)
    shm.unlink("a")
    with shm.watch("a/", wait=60) as watch:
        assert_type(watch, shmclient.Watch)
        for change in watch:
            assert_type(change, shmclient.Change)
            assert_type((change.kind, change.info), tuple[str, shmclient.RegionInfo])
    with shm.follow("a", wait=1, as_="torch") as follow:
        assert_type(follow, shmclient.Follow)
        for value in follow:
            assert_type(value, Any)
    assert_type(shm.open("a").resize(1 << 20), int)
    assert_type(shm.save("a", path), int)
    assert_type(shm.load(path, name="b"), shmclient.Region)


def arenas(shm: shmclient.Client, ffi: Any) -> None:
    """Own an arena, and read one."""
    with shm.arena("a", 1 << 20, max_size=1 << 30, names=10, populate=True) as arena:
        assert_type(arena, shmclient.Arena)
        assert_type((arena.name, arena.size), tuple[str, int])
        assert_type((arena.put("x", 1), arena.put_object("y", 1)), tuple[int, int])
        arena["x"] = [1, {"a": None}]
        arena.put_many({"x": 1})
        arena.grow(1 << 21)
        with arena.loan("x", (2, 3), "f4") as array:
            assert_type(array, Any)
        with arena.build("x", 4096) as builder:
            assert_type(builder, shmclient.ArenaBuilder)
            assert_type((builder.name, builder.size, builder.address), tuple[str, int, int])
            builder.set_root(builder.new(ffi, "int *"))
        arena.remove("x")
    view = shm.open_arena("a", wait=1)
    assert_type(view, shmclient.ArenaView)
    assert_type((view.name, view.generation, len(view)), tuple[str, int, int])
    assert_type((view["x"], view.get("x"), view.get_object("x")), tuple[Any, Any, Any])
    value = view.wait("x", after=1)
    assert_type(value, shmclient.ArenaValue)
    assert_type((value.name, value.generation, value.published_ns), tuple[str, int, int])
    assert_type((value.data, value.value(), value.is_current()), tuple[memoryview, Any, bool])
    for change in view.changes(since=0):
        assert_type(change, shmclient.ArenaChange)
        assert_type((change.name, change.generation, change.is_removed), tuple[str, int, bool])


def values(
    large: shmclient.RegionDict, table: shmclient.ArrowValue, column: shmclient.ArrowArrayValue
) -> None:
    """Use what comes out."""
    assert_type((large["key"], large.copy(), len(large)), tuple[Any, dict[str, Any], int])
    assert_type((table.column_names, table.batch_count, table.nbytes), tuple[tuple[str, ...], int, int])
    assert_type((column.format, len(column)), tuple[str, int])
    stored = shmclient.pickled(object())
    assert_type(stored, shmclient.PickledObject)
    assert_type((stored.load(allow_pickle=True), stored.nbytes), tuple[Any, int])
    crossing: shmclient.Reference = shmclient.reference(large)
    print(crossing)
    shmclient.share_arrays()


def tensors(shm: shmclient.Client, path: Path) -> None:
    """Read and write safetensors files."""
    assert_type(shmclient.put_safetensors(shm, path, "model/", mode=0o640), list[str])
    loaded = shmclient.read_safetensors(path)
    assert_type(loaded, shmclient.SafeTensors)
    shmclient.write_safetensors(path, loaded, {"format": "pt"})
    assert_type(shm.get("a", as_="torch"), Any)


def pins(file: int, buffers: Sequence[bytearray], cell: Any) -> None:
    """Pin buffers, and read into them."""
    with shmclient.Pinner(strict=True) as pinner:
        pinned = pinner.pin(buffers[0])
        assert_type(pinned, shmclient.Pinned)
        assert_type((pinned.address, pinned.size, pinned.readonly), tuple[int, int, bool])
        pinned.store(cell, "field")
        pinned.unpin()
        vector = pinner.iovec(buffers)
        assert_type(vector, shmclient.IoVec)
        assert_type((vector.address, vector.nbytes, len(vector)), tuple[int, int, int])
        assert_type((shmclient.readv(file, vector), shmclient.writev(file, buffers)), tuple[int, int])
        assert_type((shmclient.preadv(file, vector, 1), shmclient.pwritev(file, buffers, 1)), tuple[int, int])
        assert_type(pinner.pin_graph(cell), Any)


def report(leak: shmclient.Leak) -> None:
    """Take a leak."""
    assert_type((leak.filename, leak.line, leak.pins), tuple[str, int, int])


shmclient.pinning.on_leak = report


async def in_a_loop(path: Path) -> None:
    """Do the same in an event loop."""
    async with await shmclient.aio.connect(path, wait=1) as shm:
        assert_type(shm, shmclient.aio.AsyncClient)
        assert_type(await shm.put("a", 1), shmclient.aio.AsyncRegion)
        assert_type(await shm.put_object("a", 1), shmclient.aio.AsyncRegion)
        assert_type((await shm.get("a"), await shm.get_object("a")), tuple[Any, Any])
        assert_type(await shm.get_many(["a"]), list[Any])
        assert_type(await shm.open_many(["a"]), list[shmclient.aio.AsyncRegion])
        region = await shm.open("a")
        assert_type((await region.is_current(), region.size, region.value()), tuple[bool, int, Any])
        async with shm.create("a", 10) as builder:
            assert_type(builder, shmclient.RegionBuilder)
        assert_type(await shm.list(), list[shmclient.RegionInfo])
        assert_type((await shm.stat("a"), await shm.exists("a")), tuple[shmclient.RegionInfo, bool])
        async with shm.follow("a", wait=None, as_="jax") as follow:
            assert_type(follow, shmclient.aio.AsyncFollow)
            async for value in follow:
                assert_type(value, Any)
        async with shm.watch("a") as watch:
            assert_type(watch, shmclient.aio.AsyncWatch)
            async for change in watch:
                assert_type(change, shmclient.Change)
        with await shm.arena("a", 1 << 20) as arena:
            assert_type(arena, shmclient.Arena)
        view = await shm.open_arena("a")
        assert_type(view, shmclient.aio.AsyncArenaView)
        assert_type((await view.wait("x"), view.open("x")), tuple[shmclient.ArenaValue, shmclient.ArenaValue])
        async for moved in view.changes():
            assert_type(moved, shmclient.ArenaChange)
        await shm.chmod("a", 0o600)
        await shm.unlink("a")
        await shm.save("a", path)
        await shm.load(path)


def segments() -> None:
    """Change an import."""
    segment = SharedMemory("a", create=True, size=10)
    assert_type((segment.name, segment.size, segment.buf), tuple[str, int, memoryview])
    segment.unlink()
    row = ShareableList([1, 2])
    assert_type((row[0], row.format), tuple[int, str])
    with SharedMemoryManager() as manager:
        assert_type(manager.SharedMemory(10), SharedMemory)
        assert_type(manager.ShareableList(["a"]), ShareableList[str])


def system() -> None:
    """Make the calls of the system."""
    fd = posix.memfd_create("a", posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING)
    mapping = posix.mmap(None, 4096, posix.PROT_READ, posix.MAP_SHARED, fd)
    assert_type(mapping, posix.Mapping)
    assert_type((mapping.address, mapping.length, mapping.buffer), tuple[int, int, memoryview])
    posix.munmap(mapping)
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    status = posix.describe(fd)
    assert_type(status, posix.Status)
    assert_type((status.seals, posix.errno_help(posix.ENOENT)), tuple[tuple[str, ...] | None, str])


def hosts() -> None:
    """Run hosts."""
    with shmhost.embedded(budget=1 << 30, metrics="/tmp/metrics") as host:
        assert_type(host, shmhost.EmbeddedHost)
        assert_type((host.socket_path, shmhost.__version__, shmclient.__version__), tuple[str, str, str])
    shmhost.start().close()
    config = shmhost.Config(budget=1 << 30)
    assert_type((config.windows, config.store), tuple[tuple[tuple[int, int], ...], int | None])
    assert_type(shmhost.Host(config), shmhost.Host)
    with shmhost.testing.HostProcess(budget="64M") as process:
        assert_type((process.pid, process.socket_path, process.log), tuple[int, str, list[str]])
        assert_type(process.refuse("a/", bytes=1), ExitStack)
        left = shmhost.testing.Leftovers(process, names=True)
        assert_type(left.since(), list[str])


def errors(shm: shmclient.Client) -> None:
    """Catch errors by their own names, and by those of Python."""
    try:
        shm.get("a")
    except (shmclient.RegionNotFound, shmclient.AccessDenied) as error:
        assert_type((error.errno, str(error)), tuple[int | None, str])
    except (shmclient.HostGone, shmclient.HostTimeout, shmclient.WaitTimeout, shmclient.RegionTimeout):
        pass
    except (shmclient.RegionExists, shmclient.RegionBusy, shmclient.QuotaExceeded, shmclient.ArenaFull):
        pass
    except (shmclient.AddressConflict, shmclient.BadRegion, shmclient.OutOfMemory, shmclient.Unsupported):
        pass
    except (shmclient.Closed, shmclient.ClientClosed, shmclient.RegionClosed, shmclient.WrongEventLoop):
        pass
    except (shmclient.PinReleased, shmclient.PointerEscapes, shmclient.InvalidArgument):
        pass
    except (shmclient.LocalProtocolError, shmclient.RemoteProtocolError, shmclient.ProtocolError):
        pass
    except (shmclient.ShmError, shmhost.HostError):
        raise


def main() -> None:
    """Connect."""
    with shmclient.connect(Path("/run/shmhost/host.sock"), timeout=1, wait=2, reserve=1 << 20) as shm:
        assert_type(shm, shmclient.Client)
        errors(shm)
