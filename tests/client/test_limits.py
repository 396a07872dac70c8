"""A client at its own limit of open files loses the request, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import shmclient
from support import WatchedHost, wait_until

LIMIT, NAMES = 64, 100

COMMON = f"""
import anyio, errno, os, resource, sys
import shmclient
from shmclient import aio

resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))
NAMES = [f"r/{{number}}" for number in range({NAMES})]
path = sys.argv[1]

def told(error):
    assert isinstance(error, shmclient.OutOfMemory), repr(error)
    assert error.errno == errno.EMFILE
    assert "limit of {LIMIT} open files" in str(error), str(error)
    assert "ulimit -n" in str(error), str(error)

def check(regions):
    assert 30 < len(regions) < {LIMIT}
    for region in regions:
        assert bytes(region.data) == region.name.encode(), region

def leases(infos):
    return sum(info.leases for info in infos)
"""
SYNC = """
shm = shmclient.connect(path)
base = leases(shm.list())
regions, failures = [], 0
for name in NAMES:
    try:
        regions.append(shm.open(name))
    except OSError as error:
        told(error)
        failures += 1
assert failures == len(NAMES) - len(regions)
check(regions)
assert leases(shm.list()) == base + len(regions)
for count in (2, 64):
    for _ in range(3):
        try:
            shm.open_many(NAMES[:count])
        except OSError as error:
            told(error)
        else:
            raise AssertionError("there was room")
for attempt in (lambda: shm.get(NAMES[-1]), lambda: shm.put("new", b"x"), lambda: shm.open("new")):
    try:
        attempt()
    except shmclient.RegionNotFound:
        pass
    except OSError as error:
        told(error)
    else:
        raise AssertionError("there was room")
check(regions)
assert leases(shm.list()) == base + len(regions)
while regions[5:]:
    regions.pop().close()
assert leases(shm.list()) == base + 5
assert bytes(shm.put("new", b"x").data) == b"x"
assert len(shm.open_many(NAMES[:20])) == 20
assert leases(shm.list("r/")) == base + 5
print("ok")
"""
ASYNC = """
async def main():
    async with await aio.connect(path) as shm:
        base = leases(await shm.list())
        regions = []
        for name in NAMES:
            try:
                regions.append(await shm.open(name))
            except OSError as error:
                told(error)
        assert len(regions) < len(NAMES)
        check(regions)
        try:
            await shm.open_many(NAMES[:64])
        except OSError as error:
            told(error)
        else:
            raise AssertionError("there was room")
        check(regions)
        assert leases(await shm.list()) == base + len(regions)
        while regions[5:]:
            regions.pop().close()
        assert len(await shm.open_many(NAMES[:20])) == 20
        assert leases(await shm.list()) == base + 5
    print("ok")

anyio.run(main)
"""
THREADS = """
from concurrent.futures import ThreadPoolExecutor

shm = shmclient.connect(path)
base = leases(shm.list())

def attempt(name):
    try:
        return shm.open(name)
    except OSError as error:
        told(error)

with ThreadPoolExecutor(8) as pool:
    regions = [region for region in pool.map(attempt, NAMES * 3) if region is not None]
check(regions)
assert leases(shm.list()) == base + len(regions)
print("ok")
"""


@pytest.mark.parametrize("script", [SYNC, ASYNC, THREADS], ids=["sync", "async", "threads"])
def test_client_at_its_limit_loses_the_request_and_no_lease(
    script: str, host: WatchedHost, shm: shmclient.Client
) -> None:
    for number in range(NAMES):
        shm.put(f"r/{number}", f"r/{number}".encode()).close()
    host.settle()
    before = host.counts()
    command = [sys.executable, "-c", textwrap.dedent(COMMON + script), host.socket_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (result.stdout, result.stderr) == ("ok\n", "")
    wait_until(lambda: host.counts()["leases"] == before["leases"])
    wait_until(lambda: host.counts()["creating"] == 0)
    assert host.counts()["links"] == before["links"]
