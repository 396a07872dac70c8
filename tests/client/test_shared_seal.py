"""Regions that several write: who may write what, and what stays as it is."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shmclient
from native_support import STRICT, WAYS
from shmprotocol.kernel.constants import F_SEAL_FUTURE_WRITE
from shmprotocol.wire import messages as m
from support import (
    Machine,
    RawPeer,
    WatchedHost,
    as_nobody,
    in_child,
    needs_root,
    wait_until,
)
from takeover_support import line_of_hosts


def share(
    shm: shmclient.Client, name: str, content: bytes = b"12345678", mode: int = 0o600
) -> shmclient.Region:
    with shm.create(name, len(content), seal="shared", mode=mode) as builder:
        builder.data[:] = content
    assert builder.region is not None
    region: Any = builder.region
    return region  # type: ignore[no-any-return]


@contextlib.contextmanager
def writable(shm: shmclient.Client, name: str) -> Iterator[int]:
    """Share a region, and yield the descriptor that its creator had."""
    with shm.create(name, 8, seal="shared") as builder:
        builder.data[:] = b"12345678"
        fd = os.dup(builder.fileno())
    try:
        yield fd
    finally:
        os.close(fd)


def write_from_another_process(path: str, name: str, content: bytes) -> None:
    program = textwrap.dedent("""
        import sys, shmclient
        with shmclient.connect(sys.argv[1]) as shm:
            data = shm.get(sys.argv[2])
            data[: len(sys.argv[3])] = sys.argv[3].encode()
    """)
    subprocess.run([sys.executable, "-c", program, path, name, content.decode()], check=True, timeout=60)


def test_all_who_may_write_write_the_same_bytes(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm:
        creator = share(shm, "x")
        write_from_another_process(host.socket_path, "x", b"abcd")
        assert bytes(creator.data) == bytes(shm.get("x")) == b"abcd5678"
        shm.get("x")[4:] = b"efgh"
        assert bytes(shm.get("x")) == bytes(creator.data) == b"abcdefgh"
        assert shm.stat("x").seal == "shared"


def test_array_is_live_and_not_copied(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm, shmclient.connect(host.socket_path) as other:
        with shm.create("grid", 4096, seal="shared") as builder:
            mine = builder.array((4, 4), "f8")
        first, again = other.get("grid"), other.get("grid")
        first[1, 2] = 7
        assert mine[1, 2] == again[1, 2] == 7
        assert first.ctypes.data == again.ctypes.data == mine.ctypes.data
        assert all(array.flags.writeable for array in (first, again, mine))


def test_forked_child_writes_what_its_parent_reads(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm:
        data = share(shm, "x").data

        def write() -> None:
            data[:4] = b"fork"

        assert in_child(write) == 0
        assert bytes(data) == b"fork5678"


def test_size_is_sealed_and_content_is_not(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm, writable(shm, "x") as fd:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        shape = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        assert seals & shape == shape
        assert not seals & (fcntl.F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
        for size in (0, 4096, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):  # nobody can keep the others from writing
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


@needs_root
def test_mode_says_who_writes_and_who_reads(open_host: WatchedHost) -> None:
    def use_as_other() -> None:
        with shmclient.connect(open_host.socket_path) as other:
            with other.open("read") as region:
                assert region.data.readonly
                with pytest.raises(PermissionError):
                    mmap.mmap(region.fileno(), 4096)
                with pytest.raises(PermissionError):
                    os.open(f"/proc/self/fd/{region.fileno()}", os.O_RDWR)
            other.get("write")[:4] = b"them"

    with shmclient.connect(open_host.socket_path) as shm:
        mine, ours = share(shm, "read", mode=0o644), share(shm, "write", mode=0o666)
        assert as_nobody(use_as_other) == 0
        assert (bytes(mine.data), bytes(ours.data)) == (b"12345678", b"them5678")


@needs_root
def test_right_that_comes_later_is_read_only_while_the_region_is_mapped(open_host: WatchedHost) -> None:
    """What is mapped for reading stays so: a write through it would be SIGSEGV."""

    def use_as_other() -> None:
        with shmclient.connect(open_host.socket_path) as other:
            before = other.get("x")
            assert before.readonly
            os.write(asked, b"1")
            os.read(ready, 1)
            with shmclient.connect(open_host.socket_path) as late:
                assert late.get("x").readonly
            del before
            with shmclient.connect(open_host.socket_path) as late:
                late.get("x")[:4] = b"late"

    (question, asked), (ready, answer) = os.pipe(), os.pipe()
    with shmclient.connect(open_host.socket_path) as shm:
        share(shm, "x", mode=0o644).close()  # or the child would have it from its parent

        def allow() -> None:
            os.read(question, 1)
            shm.chmod("x", 0o666)
            os.write(answer, b"1")

        thread = threading.Thread(target=allow)
        thread.start()
        assert as_nobody(use_as_other) == 0
        thread.join()
        assert bytes(shm.get("x")) == b"late5678"


def test_readers_keep_the_header_that_the_host_wrote(host: WatchedHost) -> None:
    """A writer can reach it by a descriptor; those who have the region mapped have a copy."""
    program = textwrap.dedent("""
        import sys, shmclient
        with shmclient.connect(sys.argv[1]) as shm, shm.open("x") as region:
            print("mapped", flush=True)
            input()
            print(region.header.data_size, bytes(region.data), flush=True)
    """)
    with shmclient.connect(host.socket_path) as shm, writable(shm, "x") as fd:
        args = [sys.executable, "-c", program, host.socket_path]
        with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "mapped\n"
            os.pwrite(fd, b"\0" * 4096, 0)
            assert child.communicate("\n", 60)[0] == "8 b'12345678'\n"


def test_new_reader_of_a_destroyed_header_gets_an_error(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm, writable(shm, "x") as fd:
        os.pwrite(fd, b"\0" * 4096, 0)
        program = textwrap.dedent("""
            import sys, shmclient
            with shmclient.connect(sys.argv[1]) as shm:
                try:
                    shm.get("x")
                except shmclient.BadRegion:
                    sys.exit(7)
        """)
        args = [sys.executable, "-c", program, host.socket_path]
        assert subprocess.run(args, check=False, timeout=60).returncode == 7


def test_named_objects_are_refused(host: WatchedHost) -> None:
    with (
        shmclient.connect(host.socket_path) as shm,
        pytest.raises(shmclient.InvalidArgument, match="memfd"),
        shm.create("x", 8, seal="shared", backend="shm"),
    ):
        pass


def test_old_host_refuses_clearly(host: WatchedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "VERSION", m.SHARED_VERSION - 1)
    with (
        shmclient.connect(host.socket_path) as shm,
        pytest.raises(shmclient.Unsupported, match="version 5"),
        shm.create("x", 8, seal="shared"),
    ):
        pass


def test_old_client_is_refused_clearly(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm, RawPeer(host.socket_path, greet=False) as old:
        region = share(shm, "x")
        old.ask(m.Hello(1, 1, m.SHARED_VERSION - 1, "old"))
        reply, fds = old.ask(m.Open(2, ("x",), (), False))
        assert isinstance(reply, m.Refused)
        assert (reply.code, fds) == ("unsupported", [])
        assert "version 5" in reply.text
        region.close()


def test_region_and_its_writers_outlive_a_killed_host(machine: Machine) -> None:
    with shmclient.connect(machine.path, wait=60) as shm:
        data = share(shm, "x").data
        number = shm.stat("x").generation
        machine.kill()
        data[:4] = b"kept"
        machine.start()
        with shmclient.connect(machine.path, wait=60) as other:
            again = other.get("x", wait=60)
            assert other.stat("x").generation == number
            again[4:] = b"more"
        assert bytes(data) == b"keptmore"
        assert shm.stat("x").seal == "shared"


def test_region_and_its_writers_outlive_a_takeover(tmp_path: Path) -> None:
    with line_of_hosts(tmp_path / "h") as line, shmclient.connect(line.path) as shm:
        data = share(shm, "x").data
        line.take_over()
        write_from_another_process(line.path, "x", b"abcd")
        assert bytes(data) == b"abcd5678"


def test_new_generation_leaves_the_old_one_alone(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm:
        old = share(shm, "x").data
        new = share(shm, "x", b"abcdefgh").data
        old[0] = new[0] = 0
        assert (bytes(old), bytes(new)) == (b"\x002345678", b"\0bcdefgh")


def test_nothing_is_left_open(host: WatchedHost) -> None:
    before = host.counts()
    with shmclient.connect(host.socket_path) as shm:
        region = share(shm, "x")
        region.close()
        del region
        shm.get("x")
        shm.unlink("x")
    wait_until(lambda: host.is_back_at(before))


NATIVE = """
#include "shm_abi.h"
#include <stdio.h>
int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        int fd = shm_region_fd("x"), refused = shm_region_map(fd, &header), error;

        error = shm_region_map_shared(fd, argc > 1, &header);
        printf("%d %d", refused, error);
        if (error)
                return 0;
        printf(" %.8s\\n", (const char *)header->data);
        if (argc > 1)
                ((char *)(uintptr_t)header->data)[0] = argv[1][0];
        return shm_region_unmap(header);
}
"""


@pytest.mark.parametrize("way", ["c11", "c++17"])
def test_native_program_maps_it_by_the_function_that_says_so(
    host: WatchedHost, tmp_path: Path, way: str
) -> None:
    (tmp_path / "share.c").write_text(NATIVE)
    program = str(tmp_path / "share")
    build = [*WAYS[way], *STRICT, str(tmp_path / "share.c"), "-o", program]
    subprocess.run(build, check=True, timeout=60)
    with shmclient.connect(host.socket_path) as shm, writable(shm, "x") as fd:
        run = functools.partial(
            subprocess.run,
            pass_fds=[fd],
            env={"SHM_REGIONS": f"{fd} x"},
            check=True,
            timeout=60,
            stdout=subprocess.PIPE,
        )
        assert run([program]).stdout == b"-1 0 12345678\n"
        assert run([program, "A"]).stdout == b"-1 0 12345678\n"
        assert bytes(shm.get("x")) == b"A2345678"


def test_name_that_is_not_kept_goes_with_its_client(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as other, other.watch("") as watch:
        with shmclient.connect(host.socket_path) as shm:
            with shm.create("x", 8, seal="shared", keep=False):
                pass
            with shm.create("y", 8, keep=False):
                pass
            shm.put("y", b"newer, and kept").close()
            held = other.get("x")
        wait_until(lambda: [info.name for info in other.list()] == ["y"])
        held[:4] = b"mine"
        assert bytes(held) == b"mine\0\0\0\0"
        changes = [next(watch) for _ in range(4)]
        assert [(change.kind, change.info.name) for change in changes] == [
            ("published", "x"),
            ("published", "y"),
            ("published", "y"),
            ("unlinked", "x"),
        ]


def test_name_that_is_not_kept_stays_over_a_takeover_and_goes_then(tmp_path: Path) -> None:
    with line_of_hosts(tmp_path / "h") as line, shmclient.connect(line.path) as other:
        with shmclient.connect(line.path) as shm:
            with shm.create("x", 8, seal="shared", keep=False):
                pass
            line.take_over()
            assert [info.name for info in other.list()] == ["x"]
        wait_until(lambda: not other.list())


def test_name_that_is_being_made_over_a_takeover_is_not_kept_either(tmp_path: Path) -> None:
    with line_of_hosts(tmp_path / "h") as line, shmclient.connect(line.path) as other:
        with shmclient.connect(line.path) as shm:
            with shm.create("x", 8, keep=False):
                line.take_over()
            assert [info.name for info in other.list()] == ["x"]
        wait_until(lambda: not other.list())
