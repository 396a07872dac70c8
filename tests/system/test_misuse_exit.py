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
    "an arena": 'shm = shmclient.connect(path); arena = shm.arena("a", 1 << 20); arena["x"] = np.arange(5)',
    "values of an arena": """
shm = shmclient.connect(path); arena = shm.arena("a", 1 << 20, keep=False)
arena["x"] = np.arange(5); arena["y"] = {"b": b"1"}
other = shmclient.connect(path); view = other.open_arena("a")
kept = [arena["x"], view["x"], view["y"], other.open("a/x")]
""",
    "blocks of an arena": """
import cffi
ffi = cffi.FFI()
shm = shmclient.connect(path); arena = shm.arena("a", 1 << 20)
node = arena.new(ffi, "int *", 5)
loan = arena.loan("x", 100); data = loan.__enter__()
block = arena.build("y", 100); builder = block.__enter__()
""",
    "an iterator of an arena's changes": """
shm = shmclient.connect(path); arena = shm.arena("a", 1 << 20); arena["x"] = b"1"
view = shm.open_arena("a"); changes = view.changes(since=0); next(changes)
follow = shm.follow("a/x"); next(follow)
""",
    "daemon threads that write and read an arena": """
shm = shmclient.connect(path); arena = shm.arena("a", 8 << 20, names=10)
other = shmclient.connect(path); arena["x"] = np.ones(100_000)
def write():
    while True: arena["x"] = np.ones(100_000)
def read():
    while True: other.get("a/x").sum()
for target in (write, write, read, read):
    threading.Thread(target=target, daemon=True).start()
time.sleep(0.05)
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


# What a thread waits in at the end of the main thread, with `shm` or `path`.
WAITS = {
    "watch": "next(shm.watch())",
    "get for some time": 'shm.get("missing", wait=600)',
    "get for ever": 'shm.get("missing", wait=math.inf)',
    "open": 'shm.open("missing", wait=600)',
    "a value of an arena": 'shm.open_arena("camera").wait("x")',
    "a name of an arena": 'shm.get("camera/x", wait=math.inf)',
    "changes of an arena": 'next(shm.open_arena("camera").changes())',
    "an async watch": "asyncio.run(watch())",
    "an async wait in an arena": "asyncio.run(wait())",
    "an async get": "asyncio.run(get())",
}
IN_A_THREAD = """
import shmclient.aio
shm = shmclient.connect(path)
arena = shm.arena("camera", 1 << 20)
ready = threading.Event()
async def wait():
    async with await shmclient.aio.connect(path) as shm:
        view = await shm.open_arena("camera")
        ready.set()
        await view.wait("x")
async def watch():
    async with await shmclient.aio.connect(path) as shm:
        ready.set()
        async for change in shm.watch(): pass
async def get():
    async with await shmclient.aio.connect(path) as shm:
        ready.set()
        await shm.get("missing", wait=math.inf)
def run():
    if "async" not in {wait!r}: ready.set()
    try: {wait}
    except shmclient.HostGone: print("HostGone")
threading.Thread(target=run, daemon={daemon}).start()
ready.wait()
"""


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_threads_that_wait_for_a_private_host_are_told_that_it_ends(wait: str, tmp_path: Path) -> None:
    script = START + IN_A_THREAD.format(wait=wait, daemon=False)
    assert run_private(script, tmp_path) == (0, "HostGone\n", "")


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_daemon_threads_that_wait_for_a_host_keep_no_program(wait: str, host: WatchedHost) -> None:
    with nothing_left(host):
        script = GIVEN + IN_A_THREAD.format(wait=wait, daemon=True)
        assert run_script(script, host.socket_path) == (0, "", "")


def test_thread_that_is_no_daemon_keeps_its_program_until_its_wait_is_over(host: WatchedHost) -> None:
    script = GIVEN + IN_A_THREAD.format(wait='shm.get("missing", wait=0.3)', daemon=False)
    with nothing_left(host):
        code, out, err = run_script(script, host.socket_path)
    assert (code, out) == (0, "")
    assert "RegionTimeout: 'missing' did not appear within 0.3 s" in err


# How else a program, or a child of it, can end.
ENDS = {
    "sys.exit": ("sys.exit(3)", 3),
    "sys.exit in a thread": (
        "thread = threading.Thread(target=sys.exit, args=(3,)); thread.start(); thread.join()",
        0,
    ),
    "os._exit": ("os._exit(3)", 3),
    "exec": ("os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(3)'])", 3),
    "a handler at the exit that uses the client": (
        """
@atexit.register
def use():
    arena["x"] = b"2"; bytes(values[2]["x"])
    try: shm.put("b", b"1"); bytes(shm.get("a")); region.data; builder.data
    except shmclient.ShmError as error: print(type(error).__name__)
""",
        0,
    ),
    "a destructor that uses the client": (
        """
class Late:
    def __init__(self): self.shm, self.arena, self.values = shm, arena, values
    def __del__(self):
        self.arena["x"] = b"2"; bytes(self.values[2]["x"]); self.values = None
        try: self.shm.put("b", b"1")
        except shmclient.ShmError: pass
kept = Late()
""",
        0,
    ),
    "a child of os.fork that exits": (
        "child = os.fork()\nif child: assert os.waitpid(child, 0)[1] == 0",
        0,
    ),
    "a child of os.fork that uses it": (
        'child = os.fork()\nshm.put(f"b{child}", b"1")\nif child: assert os.waitpid(child, 0)[1] == 0',
        0,
    ),
    **{
        f"a child of multiprocessing, {method}": (
            f"""
import multiprocessing
context = multiprocessing.get_context({method!r})
code = f"import shmclient; shmclient.connect({{path!r}}).put('b', b'1')"
child = context.Process(target=exec, args=(code,))
child.start(); child.join(); assert child.exitcode == 0
""",
            0,
        )
        for method in ("fork", "spawn", "forkserver")
    },
}
HELD = """
shm = shmclient.connect(path)
arena = shm.arena("camera", 1 << 20); arena["x"] = np.arange(5); arena["y"] = b"1"
values = arena["x"], shm.get("camera/y"), shm.open_arena("camera")
region = shm.put("a", b"1"); view = region.data
block = shm.create("c", 4096); builder = block.__enter__()
changes = shm.watch()
"""


@pytest.mark.parametrize(("script", "code"), ENDS.values(), ids=ENDS.keys())
def test_program_with_everything_open_ends_by(script: str, code: int, host: WatchedHost) -> None:
    with nothing_left(host):
        assert run_script(GIVEN + HELD + script, host.socket_path) == (code, "", "")


@pytest.mark.parametrize("end", [key for key in ENDS if key not in ("os._exit", "exec")])
def test_program_with_its_own_host_ends_by(end: str, tmp_path: Path) -> None:
    script, code = ENDS[end]
    out = "HostGone\n" if "handler" in end else ""
    assert run_private(START + HELD + script, tmp_path) == (code, out, "")
