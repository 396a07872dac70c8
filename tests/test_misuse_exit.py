"""A program that ends with something open ends all the same, at once, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from misuse import nothing_left, run_private, run_script
from support import WatchedHost

ALONE = """
import asyncio, atexit, math, os, sys, threading, time
import numpy as np
import shmclient, shmhost
"""
START = ALONE + "host = shmhost.start(); path = host.socket_path\n"
GIVEN = ALONE + "path = sys.argv[1]\n"
# Run a function in threads, and go on when each of them waits for the host.
WAITING = """
def waiting(function, daemon):
    def run():
        try:
            function()
        except shmclient.HostGone:
            print("HostGone")
    thread = threading.Thread(target=run, daemon=daemon)
    thread.start()
    return thread

def asked(shm, name):  # whether a thread waits for a name: the host knows
    while True:
        with open(f"/proc/self/task/{asked.thread.native_id}/syscall") as file:
            if file.read().split()[0] == "7":  # poll(2)
                return
"""

# What each script leaves open at its end, next to the host in its own process.
OPEN = {
    "a host": "",
    "a host entered without exit": "other = shmhost.embedded().__enter__()",
    "two hosts": "other = shmhost.start()",
    "a client": "shm = shmclient.connect(path)",
    "a region and its views": """
shm = shmclient.connect(path)
region = shm.put("a", np.arange(1000)); view = region.data; header = region.header; array = shm.get("a")
""",
    "an object in /dev/shm": 'shm = shmclient.connect(path); region = shm.put("a", b"123", backend="shm")',
    "a builder": """
shm = shmclient.connect(path)
block = shm.create("a", 4096); builder = block.__enter__(); view = builder.data
""",
    "a watch": 'shm = shmclient.connect(path); changes = shm.watch(); shm.put("a", b"1"); next(changes)',
    "pins": """
shm = shmclient.connect(path)
pinner = shmclient.Pinner(); pin = pinner.pin(shm.put("a", b"1"))
iov = pinner.iovec([bytearray(9), shm.get("a")])
""",
    "a reference cycle": """
shm = shmclient.connect(path)
cycle = [shm, shm.put("a", b"1"), shm.get("a"), host]; cycle.append(cycle)
""",
    "an attribute of a module": """
shm = shmclient.connect(path)
sys.modules["math"].kept = [host, shm, shm.put("a", b"1"), shm.get("a")]
del host, shm
""",
    "thread-locals": """
local = threading.local()
def work():
    local.shm = shmclient.connect(path); local.view = local.shm.put("a", b"1").data
work()
thread = threading.Thread(target=work); thread.start(); thread.join()
""",
    "a closed loop's client": """
async def main():
    shm = await shmclient.aio.connect(path)
    return shm, await shm.put("a", b"1"), shm.watch(), await shm.get("a")
import shmclient.aio
kept = asyncio.run(main())
""",
    "a loop that runs in a daemon thread": """
import shmclient.aio
ready = threading.Event()
async def main():
    shm = await shmclient.aio.connect(path)
    async with shm.watch() as changes:
        ready.set()
        try:
            async for change in changes: pass
        except shmclient.HostGone: pass
threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
ready.wait()
""",
}


@pytest.mark.parametrize("script", OPEN.values(), ids=OPEN.keys())
def test_program_with_its_own_host_ends_with_open(script: str, tmp_path: Path) -> None:
    assert run_private(START + script, tmp_path) == (0, "", "")


@pytest.mark.parametrize("script", OPEN.values(), ids=OPEN.keys())
def test_program_with_a_host_elsewhere_ends_with_open(script: str, host: WatchedHost) -> None:
    with nothing_left(host):
        assert run_script(GIVEN + "host = None\n" + script, host.socket_path) == (0, "", "")
