"""Regions lie at their own address; what lies there already is named and left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shmclient
from shmhost.core.window import STEP
from support import (
    WatchedHost,
    watched_host,
)

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
