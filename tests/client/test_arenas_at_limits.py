"""A client at its own limits: each descriptor of an arena or a ledger, and each mapping, that has no room."""

from __future__ import annotations

import subprocess
import sys

import pytest

import shmclient
from shmclient._drivers.arenas import NAMES_MAX
from shmprotocol.native.binding import lib
from support import WatchedHost, wait_until

LIMITED = """
import gc, os, resource, sys
import numpy as np
import shmclient
from shmclient._drivers.arenas import NAMES_MAX
from shmprotocol.native.binding import lib

def limit(more):
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [number for number in range(max(used) + more + 2) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[more], hard))

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
path = sys.argv[1]
"""
OWN = """
made = 0
for more in range(12):
    shm = shmclient.connect(path)
    shm.list()
    limit(more)
    try:
        arena = shm.arena("mine", 1 << 20, names=10, keep=False)
        arena["x"] = b"1"
        made += 1
        arena.close()
        del arena
    except OSError as error:
        assert isinstance(error, shmclient.OutOfMemory), repr(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with shm.arena("mine", 1 << 20, names=10, keep=False) as arena:
        arena["x"] = b"2"
    shm.close()
assert 0 < made < 12, made
print("ok")
"""
READ = """
opened = 0
for more in range(12):
    shm = shmclient.connect(path)
    shm.list()
    limit(more)
    try:
        assert bytes(shm.get("camera/x")) == b"1"
        opened += 1
    except OSError as error:
        assert isinstance(error, shmclient.OutOfMemory), repr(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bytes(shm.get("camera/x")) == b"1"
    assert list(shm.open_arena("camera")) == ["x"]
    shm.close()
assert 0 < opened < 12, opened
print("ok")
"""
READ_IN_A_LOOP = """
import anyio, shmclient.aio

async def main():
    opened = 0
    for more in range(12):
        async with await shmclient.aio.connect(path) as shm:
            await shm.list()
            limit(more)
            try:
                assert bytes(await shm.get("camera/x")) == b"1"
                opened += 1
            except OSError as error:
                assert isinstance(error, shmclient.OutOfMemory), repr(error)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            view = await shm.open_arena("camera")
            assert bytes((await view.wait("x")).data) == b"1"
    assert 0 < opened < 12, opened
    print("ok")

anyio.run(main)
"""
# The owner has no room for the ledgers of its readers, and so reuses nothing until it has.
HEAR = """
import subprocess
shm = shmclient.connect(path)
arena = shm.arena("mine", 1 << 20, names=10, keep=False)
value = np.ones(1 << 14)
arena["x"] = value
reader = subprocess.Popen([sys.executable, "-c", '''
import sys, shmclient
with shmclient.connect(sys.argv[1]) as shm:
    value = shm.get("mine/x"); print("got", flush=True); sys.stdin.read()
    assert (value == 1).all(); print("whole", flush=True)
''', path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
limit(0)
assert reader.stdout.readline() == "got\\n"
full = 0
for number in range(20):
    try:
        arena["x"] = value * 2
    except shmclient.ArenaFull:
        full += 1
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
for number in range(20):
    arena["x"] = value * 3
assert reader.communicate("")[0] == "whole\\n"
arena.close()
print("ok" if full else "it was never full")
"""


# Bytes of addresses instead: what cannot be mapped is refused, and undone.
ADDRESSES = """
def limit_to(more):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, hard_as))

soft_as, hard_as = resource.getrlimit(resource.RLIMIT_AS)
with shmclient.connect(path) as shm, shm.arena("mine", 1 << 20, keep=False) as arena:
    arena["x"] = b"2"  # what this imports is not to fail
failures = 0
for more in range(0, 80 << 20, 1 << 20):
    shm = shmclient.connect(path)
    shm.list()
    for use in (
        lambda: bytes(shm.get("camera/x")),
        lambda: shm.arena("mine", 32 << 20, names=1000, keep=False).put("x", b"1"),
    ):
        limit_to(more)
        try:
            use()
        except (OSError, MemoryError) as error:
            assert isinstance(error, (shmclient.OutOfMemory, MemoryError)), repr(error)
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft_as, hard_as))
        gc.collect()
    with shm.arena("mine", 32 << 20, names=1000, keep=False) as arena:
        arena["x"] = b"2"
    assert bytes(shm.get("camera/x")) == b"1"
    shm.close()
assert 0 < failures < 160, failures
print("ok")
"""


@pytest.mark.parametrize(
    "script",
    [OWN, READ, READ_IN_A_LOOP, HEAR, ADDRESSES],
    ids=["own", "read", "read in a loop", "hear of readers", "addresses"],
)
def test_client_at_its_limit_loses_the_request_and_nothing_else(
    script: str, host: WatchedHost, shm: shmclient.Client
) -> None:
    with shm.arena("camera", 1 << 20, names=10) as arena:
        arena["x"] = b"1"
        before = host.counts()
        command = [sys.executable, "-c", LIMITED + script, host.socket_path]
        result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert (result.stdout, result.stderr) == ("ok\n", "")
        wait_until(lambda: host.is_back_at(before), shown=lambda: (before, host.counts()))
        arena["x"] = b"2"


def test_number_of_names_has_a_limit_and_takes_room(shm: shmclient.Client) -> None:
    assert lib.SHM_ARENA_NAMES_MAX == NAMES_MAX
    with pytest.raises(shmclient.InvalidArgument, match=f"at most {NAMES_MAX} names, not {NAMES_MAX + 1}"):
        shm.arena("many", 1 << 20, names=NAMES_MAX + 1).__enter__()
    with pytest.raises(shmclient.InvalidArgument, match=f"too few for {NAMES_MAX} names"):
        shm.arena("many", 1 << 20, names=NAMES_MAX).__enter__()
    assert shm.list("many") == []
