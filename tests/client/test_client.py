"""What users rely on: values come back as they were put, and live exactly as long as they are used."""

from __future__ import annotations

import array
import gc
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shmclient
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.core.window import STEP
from shmprotocol.abi.header import HEADER_SIZE
from support import (
    WatchedHost,
    count_descriptors,
    in_child,
    mapped_addresses,
    serve,
    wait_until,
    watched_host,
    without_proc,
)

BYTES_LIKE = {
    "bytes": b"some bytes",
    "empty": b"",
    "bytearray": bytearray(b"some bytes"),
    "slice": memoryview(b"some bytes")[2:5],
    "strided": memoryview(b"some bytes")[::2],
    "reversed": memoryview(b"some bytes")[::-1],
}
STRUCTURED = np.dtype(
    {"names": ["a", "b"], "formats": ["u1", "<f8"], "offsets": [0, 16], "itemsize": 32, "aligned": True}
)
ARRAYS = {
    "one dimension": np.arange(10),
    "C order": np.arange(24).reshape(2, 3, 4),
    "F order": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
    "not contiguous": np.arange(100)[::3],
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "0-d": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "big-endian": np.arange(5, dtype=">i4"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "no bytes at all": np.zeros(3, "S0"),
    "time": np.array(["2020-01-01T00:00:00.5"], "M8[ms]"),
    "half": np.array([0.5], "f2"),
    "structured": np.array([(1, 2.5), (3, 4.5)], STRUCTURED),
    "nested": np.zeros(3, [("x", [("y", "<u2"), ("z", "<f4", (2, 2))]), ("name", "U3")]),
    "titled": np.zeros(2, [(("a title", "x"), "<i4")]),
    "read-only": np.frombuffer(b"12345678", "<i4"),
}


@pytest.mark.parametrize("what", BYTES_LIKE)
def test_bytes_come_back_read_only(what: str, shm: shmclient.Client) -> None:
    value = BYTES_LIKE[what]
    shm.put("x", value).close()
    got = shm.get("x")
    assert isinstance(got, memoryview)
    assert (bytes(got), got.readonly) == (bytes(value), True)


def test_buffers_keep_their_item_format_and_shape(shm: shmclient.Client) -> None:
    shm.put("x", array.array("d", [1.5, 2.5])).close()
    got = shm.get("x")
    assert (got.format, got.tolist()) == ("d", [1.5, 2.5])
    shm.put("y", memoryview(bytes(range(6))).cast("B", shape=[2, 3])).close()
    assert shm.get("y").tolist() == [[0, 1, 2], [3, 4, 5]]
    shm.put("z", mmap.mmap(-1, 4096)).close()
    assert bytes(shm.get("z")) == bytes(4096)


@pytest.mark.parametrize("what", ARRAYS)
def test_array_keeps_dtype_shape_and_order(what: str, shm: shmclient.Client) -> None:
    value = ARRAYS[what]
    shm.put("x", value).close()
    got = shm.get("x")
    assert (got.dtype, got.shape) == (value.dtype, value.shape)
    assert not got.flags.writeable
    assert got.flags.f_contiguous if value.flags.f_contiguous else got.flags.c_contiguous
    np.testing.assert_array_equal(got, np.asarray(value))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes(allow_subarrays=True)),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
        fill=st.nothing(),
    )
)
def test_any_array_comes_back_byte_for_byte(value: Any, shm: shmclient.Client) -> None:
    shm.put("x", value).close()
    got = shm.get("x")
    assert (got.dtype, got.shape, got.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_dict_is_one_region(shm: shmclient.Client) -> None:
    value = {"a": ARRAYS["F order"], "b": b"bytes", "": np.array(1), "ü": b""}
    shm.put("x", value).close()
    got = shm.get("x")
    assert list(got) == list(value)
    assert got["a"].flags.f_contiguous
    assert (bytes(got["b"]), int(got[""]), bytes(got["ü"])) == (b"bytes", 1, b"")
    np.testing.assert_array_equal(got["a"], value["a"])
    assert [info.name for info in shm.list()] == ["x"]
    assert got["a"].ctypes.data % 64 == 0


def test_empty_dict_comes_back(shm: shmclient.Client) -> None:
    shm.put("x", {}).close()
    assert shm.get("x") == {}


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ("text", TypeError, "str"),
        (7, TypeError, "int"),
        ([b"list"], TypeError, "list"),
        ({1: b""}, TypeError, "keys"),
        ({"a": {"b": b""}}, TypeError, "'a'"),
        (np.array([None]), TypeError, "object"),
        ({f"{n:0100}": b"" for n in range(6000)}, shmclient.InvalidArgument, "fewer keys"),
    ],
)
def test_put_refuses_what_it_cannot_share(
    value: Any, error: type[Exception], match: str, host: WatchedHost, shm: shmclient.Client
) -> None:
    before = host.counts()
    with pytest.raises(error, match=match):
        shm.put("x", value)
    assert host.counts() == before


@pytest.mark.parametrize(
    "name", ["", "x" * 256, "ä" * 128, "..", ".", "a/../b", "a\0b", "/a", "a//b", "a/", "a\nb", "\ud800"]
)
def test_names_are_refused_that_are_none(name: str, shm: shmclient.Client) -> None:
    for use in (lambda: shm.put(name, b""), lambda: shm.get(name), lambda: shm.stat(name)):
        with pytest.raises(shmclient.InvalidArgument):
            use()


@pytest.mark.parametrize("name", ["x", "x" * 255, "a/b/c", "ä" * 127, "...", "a b", "-"])
def test_names_are_taken_up_to_the_limit(name: str, shm: shmclient.Client) -> None:
    shm.put(name, b"1").close()
    assert [info.name for info in shm.list()] == [name]


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "1"])
def test_create_refuses_sizes_that_are_none(size: Any, shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.InvalidArgument), shm.create("x", size):
        pass


def test_create_refuses_what_no_window_holds(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.QuotaExceeded, match="window"), shm.create("x", 1 << 60):
        pass


def test_budget_is_kept_to_the_byte(tmp_path: Path) -> None:
    with (
        watched_host(str(tmp_path / "h.sock"), budget=5 * 4096 + REGION_OVERHEAD) as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        room = 5 * 4096 - HEADER_SIZE - 4096  # the builder's own room for metadata
        with pytest.raises(shmclient.QuotaExceeded, match="--budget"), shm.create("x", room + 1):
            pass
        with shm.create("x", room):
            pass
        with pytest.raises(shmclient.QuotaExceeded):
            shm.put("y", b"1")
        shm.unlink("x")
        gc.collect()
        wait_until(lambda: host.counts()["charged"] == 0)


# --- lifetimes


def test_mapping_and_lease_live_until_the_last_view_goes(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", np.arange(100)).close()
    region = shm.open("x")
    value = shm.get("x")
    part = value[10:20]
    region.close()
    del value
    shm.close()
    assert host.counts()["leases"] >= 1
    assert part.tolist() == list(range(10, 20))
    del part
    wait_until(lambda: host.counts()["leases"] == 0)
    wait_until(lambda: host.counts()["links"] == 0)
    assert mapped_addresses() == []


def test_lease_goes_without_another_call_when_a_cycle_is_collected(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"1").close()
    cycle: list[Any] = [shm.get("x")]
    cycle.append(cycle)
    del cycle
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()
    wait_until(lambda: host.counts()["leases"] == 0)


def test_get_of_what_is_mapped_and_current_adds_nothing(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", np.arange(10)).close()
    first = shm.get("x")
    before = (host.counts(), mapped_addresses())
    again = [shm.get("x") for _ in range(10)]
    assert (host.counts(), mapped_addresses()) == before
    assert all(value.ctypes.data == first.ctypes.data for value in again)


def test_new_generation_has_a_new_address_and_the_old_one_stays(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"old").close()
    old, region = shm.get("x"), shm.open("x")
    shm.put("x", b"new!").close()
    new = shm.open("x")
    assert (bytes(old), bytes(shm.get("x"))) == (b"old", b"new!")
    assert (region.generation, new.generation) == (1, 2)
    assert region.address != new.address
    assert (region.is_current(), new.is_current()) == (False, True)
    assert host.counts()["regions"] == 2
    del old
    region.close()
    wait_until(lambda: host.counts()["regions"] == 1)


def test_name_is_gone_at_once_when_it_is_unlinked(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    value = shm.get("x")
    shm.unlink("x")
    with pytest.raises(FileNotFoundError):
        shm.get("x")
    assert bytes(value) == b"1"
    shm.put("x", b"2").close()
    assert bytes(shm.get("x")) == b"2"
    del value
    wait_until(lambda: host.counts()["regions"] == 1)


def test_handle_is_over_when_it_is_closed(shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    view = region.data
    region.close()
    region.close()
    with pytest.raises(shmclient.RegionClosed):
        region.fileno()
    assert bytes(view) == b"1"


def test_clients_leave_nothing_behind(host: WatchedHost) -> None:
    before = host.counts()
    for _ in range(5):
        with shmclient.connect(host.socket_path) as shm:
            shm.put("x", {"a": np.arange(10), "b": b"1"}).close()
            value = shm.get("x")
            shm.open("x").close()
            del value
            shm.unlink("x")
    wait_until(lambda: host.counts() == before)


# --- finding and waiting


def test_get_waits_for_the_name(host: WatchedHost, shm: shmclient.Client) -> None:
    found: list[bytes] = []
    waiter = threading.Thread(target=lambda: found.append(bytes(shm.get("late", wait=30))))
    waiter.start()
    wait_until(lambda: host.counts()["listeners"] == 1)
    assert shm.list() == []  # the same client, while another of its threads waits
    shm.put("late", b"here").close()
    waiter.join()
    assert found == [b"here"]
    assert host.counts()["listeners"] in (0, 1)


@pytest.mark.parametrize("error", [TimeoutError, FileNotFoundError, shmclient.WaitTimeout])
def test_get_gives_up_when_the_time_is_over(
    error: type[Exception], host: WatchedHost, shm: shmclient.Client
) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=r"never.*0\.05"):
        shm.get("never", wait=0.05)
    assert time.monotonic() - began >= 0.05
    wait_until(lambda: host.counts()["listeners"] == 0)


def test_missing_name_is_an_error_that_says_so(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.RegionNotFound, match="nothing") as caught:
        shm.get("nothing")
    assert caught.value.errno == 2


@pytest.mark.parametrize("count", [1, 64, 65, 130])
def test_many_regions_are_opened_together(count: int, host: WatchedHost, shm: shmclient.Client) -> None:
    names = [f"x/{number:03}" for number in range(count)]
    for name in names:
        shm.put(name, name.encode()).close()
    regions = shm.open_many(names)
    assert [bytes(region.data) for region in regions] == [name.encode() for name in names]
    assert host.counts()["leases"] == count


def test_no_region_is_opened_when_one_is_missing(host: WatchedHost, shm: shmclient.Client) -> None:
    names = [f"x/{number:03}" for number in range(70)]
    for name in names:
        shm.put(name, b"1").close()
    before = host.counts()
    with pytest.raises(shmclient.RegionNotFound):
        shm.open_many([*names, "missing"])
    wait_until(lambda: host.counts() == before)


def test_list_is_complete_and_sorted_over_several_pages(shm: shmclient.Client) -> None:
    names = sorted([f"a/{number}" for number in range(1100)] + ["b", "A"])
    for name in names:
        shm.put(name, b"1").close()
    assert [info.name for info in shm.list()] == names
    assert [info.name for info in shm.list("a/99")] == [name for name in names if name.startswith("a/99")]


def test_watch_tells_of_each_change(shm: shmclient.Client) -> None:
    with shm.watch("w/") as changes:
        shm.put("w/x", b"1").close()
        shm.put("other", b"1").close()
        shm.chmod("w/x", 0o644)
        shm.unlink("w/x")
        told = [next(changes) for _ in range(3)]
    assert [(change.kind, change.info.name) for change in told] == [
        ("published", "w/x"),
        ("changed", "w/x"),
        ("unlinked", "w/x"),
    ]
    assert told[1].info.mode == 0o644


def test_header_says_what_the_host_and_the_publisher_said(shm: shmclient.Client) -> None:
    region = shm.put("head", np.arange(10, dtype="u1"))
    header, info = region.header, shm.stat("head")
    number = region.address
    import cffi

    ffi = cffi.FFI()
    assert int(ffi.cast("uintptr_t", header.base)) == number == info.address
    assert (header.data_size, header.capacity) == (info.size, info.capacity) == (10, 8192)
    assert (header.generation, header.creator_uid, header.creator_pid) == (1, os.getuid(), os.getpid())
    assert ffi.string(header.name) == b"head"
    assert region.metadata["format"] == "ndarray"


# --- rights, between real users


@pytest.fixture
def open_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedHost]:
    """A host whose socket lies where every user can reach it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with watched_host(f"{folder}/h.sock", socket_mode=0o666) as running:
            yield running


def as_nobody(function: Callable[[], object]) -> int:
    """Run a function as another user, in a forked child; return its exit code."""

    def run() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        function()

    return in_child(run)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@needs_root
def test_other_users_get_what_the_mode_gives_them(open_host: WatchedHost) -> None:
    def use_as_other() -> None:
        with shmclient.connect(open_host.socket_path) as other:
            assert bytes(other.get("public")) == b"for all"
            for use in (
                lambda: other.get("private"),
                lambda: other.put("public", b""),
                lambda: other.unlink("public"),
                lambda: other.chmod("public", 0o666),
            ):
                with pytest.raises(PermissionError, match="uid 65534"):
                    use()
            other.put("mine", b"by nobody").close()

    with shmclient.connect(open_host.socket_path) as shm:
        shm.put("private", b"1").close()
        shm.put("public", b"for all", mode=0o644).close()
        assert as_nobody(use_as_other) == 0
        assert shm.stat("mine").uid == 65534


@needs_root
def test_other_users_cannot_reopen_a_region_for_writing(open_host: WatchedHost) -> None:
    def reopen() -> None:
        with shmclient.connect(open_host.socket_path) as other:
            region = other.open("public")
            with pytest.raises(PermissionError):
                os.open(f"/proc/self/fd/{region.fileno()}", os.O_RDWR)

    with shmclient.connect(open_host.socket_path) as shm:
        shm.put("public", b"for all", mode=0o644).close()
        assert as_nobody(reopen) == 0


@needs_root
def test_other_users_are_told_whose_the_socket_is(open_host: WatchedHost) -> None:
    def connect() -> None:
        with pytest.raises(shmclient.AccessDenied, match=r"belongs to uid 0.*this is uid 65534"):
            shmclient.connect(open_host.socket_path)

    os.chmod(open_host.socket_path, 0o660)
    assert as_nobody(connect) == 0


# --- addresses

BLOCKED = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
address, size = int(sys.argv[2]), int(sys.argv[3])
FIXED_PRIVATE_ANONYMOUS = 0x10 | 0x02 | 0x20
assert libc.mmap(address, size, 3, FIXED_PRIVATE_ANONYMOUS, -1, 0) == address
ctypes.memset(address, 0x55, size)
import shmclient
shm = shmclient.connect(sys.argv[1])
assert bytes(shm.get("free")) == b"no one is in my way"
try:
    shm.get("blocked")
except shmclient.AddressConflict as error:
    assert hex(address)[2:] in str(error), error
else:
    raise SystemExit("no conflict")
assert ctypes.string_at(address, size) == b"\\x55" * size, "the blocker was harmed"
region = shm.open("blocked", anywhere=True)
assert region.is_relocated and bytes(region.data)[:4] == b"1234"
assert region.translate(int(sys.argv[4]) + 4096) == region.address + 4096
assert bytes(shm.get("blocked", anywhere=True))[:4] == b"1234"
assert bytes(shm.get("free")) == b"no one is in my way"
"""


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 16384), (0, 4096), (4096, 4096), (12288, 4096), (-4096, 8192), (-8192, 40960)]
)
def test_address_conflict_names_the_blocker_and_harms_nobody(
    offset: int, size: int, host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("padding", b"keeps the first addresses").close()
    shm.put("blocked", b"1234" * 2500).close()
    shm.put("free", b"no one is in my way").close()
    base = shm.stat("blocked").address
    arguments = [host.socket_path, str(base + offset), str(size), str(base)]
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, timeout=50
    )
    assert (result.returncode, result.stderr) == (0, "")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
import shmclient
shm = shmclient.connect(sys.argv[1])
view = shm.get("x")
assert bytes(view) == b"1234"
with open("/proc/self/maps") as maps:
    assert not any(line.startswith("550000200000") for line in maps), "reserved"
"""


def test_regions_are_mapped_one_by_one_when_a_limit_forbids_the_reservation(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"1234").close()
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, host.socket_path], capture_output=True, text=True, timeout=50
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_two_hosts_with_one_window_conflict_and_the_first_is_unharmed(
    host: WatchedHost, shm: shmclient.Client, tmp_path: Path
) -> None:
    shm.put("x", b"the first").close()
    first, address = shm.get("x"), shm.stat("x").address
    with (
        watched_host(str(tmp_path / "second.sock"), windows=((address, STEP),)) as second,
        shmclient.connect(second.socket_path) as other,
    ):
        other.put("y", b"the second").close()
        with pytest.raises(shmclient.AddressConflict, match="shmhost:x"):
            other.get("y")
        assert bytes(first) == b"the first"
        assert bytes(other.get("y", anywhere=True)) == b"the second"
        del first
        assert bytes(other.get("y")) == b"the second"


# --- when the host is not there


def test_connect_names_socket_and_cure_when_no_host_runs(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    with pytest.raises(ConnectionError, match="shmhost serve") as caught:
        shmclient.connect(path)
    assert isinstance(caught.value, shmclient.HostGone)
    assert str(path) in str(caught.value)


def test_client_comes_back_by_itself_when_the_host_does(tmp_path: Path) -> None:
    path = str(tmp_path / "h.sock")
    with watched_host(path):
        shm = shmclient.connect(path)
        shm.put("x", b"before").close()
        view = shm.get("x")
    with pytest.raises(shmclient.HostGone):
        shm.get("x")
    assert bytes(view) == b"before"
    with watched_host(path):
        with pytest.raises(shmclient.RegionNotFound):
            shm.get("x")
        shm.put("y", b"after").close()
        assert [info.name for info in shm.list()] == ["y"]
        assert bytes(view) == b"before"
        shm.close()


def test_closed_client_says_so(shm: shmclient.Client) -> None:
    shm.close()
    with pytest.raises(shmclient.ClientClosed, match="client is closed"):
        shm.list()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), 1e12])
def test_connect_refuses_timeouts_that_are_none(timeout: float, host: WatchedHost) -> None:
    with pytest.raises(shmclient.InvalidArgument):
        shmclient.connect(host.socket_path, timeout_s=timeout)


def test_stopped_host_is_a_timeout_and_the_late_reply_leaks_nothing(tmp_path: Path) -> None:
    import signal

    child = serve(tmp_path / "h.sock")
    try:
        with shmclient.connect(tmp_path / "h.sock", timeout_s=1) as shm:
            shm.put("x", b"1").close()
            descriptors = count_descriptors()
            child.send_signal(signal.SIGSTOP)
            with pytest.raises(shmclient.HostTimeout):
                shm.open("x")
            child.send_signal(signal.SIGCONT)
            wait_until(lambda: _leases(shm) == 0)
            assert count_descriptors() == descriptors
    finally:
        child.kill()
        child.communicate()


def _leases(shm: shmclient.Client) -> int:
    try:
        return shm.stat("x").leases
    except shmclient.HostTimeout:
        return -1


# --- many at once


def test_threads_share_a_client(host: WatchedHost, shm: shmclient.Client) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                value = np.full(50, number * 1000 + turn)
                shm.put(f"t/{number}", value).close()
                assert (shm.get(f"t/{number}") == value).all()
                shm.list("t/")
                with pytest.raises(shmclient.WaitTimeout):
                    shm.get(f"never/{number}", wait=0.001)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    wait_until(lambda: host.counts()["leases"] == 0)


CHECKING_READER = """
import sys, zlib
import shmclient
shm = shmclient.connect(sys.argv[1])
seen = set()
while True:
    value = shm.get("shared", wait=20)
    body, checksum = value["body"], int.from_bytes(value["checksum"], "little")
    assert zlib.crc32(body) == checksum
    seen.add(checksum)
    if bytes(value["last"]) == b"1":
        break
"""


def test_readers_never_see_a_mixture_while_a_publisher_replaces(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    import zlib

    readers = [
        subprocess.Popen([sys.executable, "-c", CHECKING_READER, host.socket_path], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    wait_until(lambda: host.counts()["listeners"] == 3)
    for turn in range(200):
        body = os.urandom(20_000)
        checksum = zlib.crc32(body).to_bytes(4, "little")
        shm.put("shared", {"body": body, "checksum": checksum, "last": b"%d" % (turn == 199)}).close()
    for reader in readers:
        _, errors = reader.communicate(timeout=50)
        assert (reader.returncode, errors) == (0, b"")
    wait_until(lambda: host.counts()["regions"] == 1)


def test_two_creators_of_one_name_do_not_mix(shm: shmclient.Client) -> None:
    with shm.create("x", 100), pytest.raises(shmclient.RegionBusy, match="being created"):
        shm.put("x", b"1")


def test_put_leaves_what_is_there_when_it_may_not_replace(shm: shmclient.Client) -> None:
    shm.put("x", b"1", replace=False).close()
    with pytest.raises(FileExistsError):
        shm.put("x", b"2", replace=False)
    assert bytes(shm.get("x")) == b"1"


def test_shm_backend_is_a_file_that_others_can_open(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("sh/m", b"by name", backend="shm").close()
    file = Path("/dev/shm/shmhost-550000000000.sh%2Fm")
    assert file.read_bytes()[HEADER_SIZE:].startswith(b"by name")
    assert bytes(shm.get("sh/m")) == b"by name"
    assert shm.stat("sh/m").seal == "none"
    shm.unlink("sh/m")
    wait_until(lambda: not file.exists())


def test_large_object_goes_through_threads_of_the_host(host: WatchedHost, shm: shmclient.Client) -> None:
    value = np.arange(8_000_000)
    shm.put("large", value).close()
    got = shm.get("large")
    assert got[-1] == value[-1]
    assert got.sum() == value.sum()
    del got
    shm.put("large", b"small").close()
    wait_until(lambda: host.counts()["regions"] == 1)


def test_reader_dies_when_it_writes_through_a_view(shm: shmclient.Client) -> None:
    import ctypes
    import signal

    shm.put("x", np.arange(10)).close()
    value = shm.get("x")

    def write() -> None:
        import faulthandler

        faulthandler.disable()
        ctypes.memset(value.ctypes.data, 0, 1)

    assert in_child(write) == -signal.SIGSEGV
    assert value[1] == 1


# --- what a size is


@pytest.mark.parametrize("content", [b"hello!", b"", bytes(5000)])
def test_size_is_what_was_put_and_capacity_the_object(content: bytes, shm: shmclient.Client) -> None:
    put = shm.put("a", content)
    for region in (put, shm.open("a")):
        assert region.size == len(region.data) == len(content)
        assert region.capacity == os.fstat(region.fileno()).st_size
        assert f", {len(content)} bytes" in repr(region)
    for info in (shm.stat("a"), *shm.list()):
        assert (info.size, info.capacity) == (len(content), put.capacity)


@pytest.mark.parametrize("size", [1, 4096, 5000])
def test_size_of_what_is_built_is_what_was_asked_for(size: int, shm: shmclient.Client) -> None:
    with shm.create("b", size) as builder:
        assert builder.size == len(builder.data) == size
        assert builder.capacity == os.fstat(builder.fileno()).st_size
    assert builder.region is not None
    assert (builder.region.size, builder.region.capacity) == (builder.size, builder.capacity)
    assert shm.open("b").size == len(shm.open("b").data) == shm.stat("b").size == size


def test_host_charges_capacity_and_its_own_part(host: WatchedHost, shm: shmclient.Client) -> None:
    regions = [shm.put("a", b"1"), shm.put("b", bytes(4096))]
    assert host.counts()["charged"] == sum(region.capacity + REGION_OVERHEAD for region in regions)


# --- descriptors of one region


def test_offset_of_a_descriptor_is_its_own(shm: shmclient.Client) -> None:
    shm.put("x", b"data").close()
    first, second = shm.open("x"), shm.open("x")
    numbers = first.fileno(), second.fileno()
    os.lseek(first.fileno(), 777, os.SEEK_SET)
    os.set_blocking(first.fileno(), False)
    assert os.lseek(second.fileno(), 0, os.SEEK_CUR) == 0
    assert os.get_blocking(second.fileno())
    assert (first.fileno(), second.fileno()) == numbers
    assert os.lseek(first.fileno(), 0, os.SEEK_CUR) == 777
    assert not os.get_inheritable(first.fileno())


@needs_root
def test_offset_of_a_descriptor_is_its_own_for_another_user(open_host: WatchedHost) -> None:
    with shmclient.connect(open_host.socket_path) as shm:
        region = shm.put("x", b"data", mode=0o604)

        def move() -> None:
            with shmclient.connect(open_host.socket_path) as other:
                mine = other.open("x")
                os.lseek(mine.fileno(), 777, os.SEEK_SET)

        assert as_nobody(move) == 0
        assert os.lseek(region.fileno(), 0, os.SEEK_CUR) == 0


@needs_root
def test_offset_is_everybodys_without_proc_and_the_descriptor_works(host: WatchedHost) -> None:
    def check() -> None:
        with shmclient.connect(host.socket_path) as shm:
            shm.put("x", b"data").close()
            first, second = shm.open("x"), shm.open("x")
            os.lseek(first.fileno(), 777, os.SEEK_SET)
            assert os.lseek(second.fileno(), 0, os.SEEK_CUR) == 777
            assert os.pread(second.fileno(), 4, 4096) == b"data"

    assert in_child(without_proc(check)) == 0


def test_handle_has_one_descriptor_and_closes_it(shm: shmclient.Client) -> None:
    shm.put("x", b"data").close()
    before = count_descriptors()
    region = shm.open("x")
    number = region.fileno()
    assert count_descriptors() == before + 1
    region.close()
    assert count_descriptors() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with pytest.raises(shmclient.RegionClosed):
        region.fileno()


@pytest.mark.parametrize("prefix", [5, None, b"bytes", "x" * 256, "\udc80"])
def test_prefix_that_no_name_has_is_refused_and_the_connection_lives(
    prefix: Any, shm: shmclient.Client
) -> None:
    shm.put("x", b"1")
    with pytest.raises(shmclient.InvalidArgument, match="a prefix"):
        shm.list(prefix)
    with pytest.raises(shmclient.InvalidArgument, match="a prefix"):
        shm.watch(prefix)
    assert bytes(shm.get("x")) == b"1"
