"""Wrong use is told: an error that says what to do, no hang, and nothing on stderr that nobody raised.

Each script runs in a process of its own against a host elsewhere, which has got everything back afterwards.
"""

from __future__ import annotations

import pytest

from misuse import Ended, nothing_left, run_script
from support import WatchedHost, count_waits

GIVEN = """
import asyncio, contextlib, copy, gc, math, os, pickle, sys, threading
import cffi
import shmclient, shmclient.aio, shmhost
from shmclient import ClientClosed, PinReleased, RegionClosed

path = sys.argv[1]
ffi = cffi.FFI()
shm = shmclient.connect(path)

def refused(kind, text, *calls):
    for call in calls:
        try:
            result = eval(call, globals())
        except kind as error:
            assert text in str(error), f"{call}: {error}"
        else:
            raise AssertionError(f"{call} gave {result!r}")
"""


def run(script: str, host: WatchedHost, waits: int = 0) -> Ended:
    """Run a script; it gets a line on its standard input once the host has so many waits."""
    with nothing_left(host):
        return run_script(GIVEN + script, host.socket_path, ready=lambda: count_waits(host) >= waits)


# How each object is made, and what a process that needs another one has to do instead.
OBJECTS = {
    "Client": ("thing = shm", "a Client", "pass its socket_path, and connect"),
    "Watch": ("thing = shm.watch()", "a Watch", "pass the name"),
    "Follow": ('thing = shm.follow("a")', "a Follow", "pass the name"),
    "Region": ('thing = shm.put("a", b"1")', "a Region", "pass its name and generation, and open it"),
    "RegionBuilder": (
        'block = shm.create("a", 99); thing = block.__enter__()',
        "a RegionBuilder",
        "publish it, pass its name",
    ),
    "published RegionBuilder": (
        'with shm.create("a", 99) as thing: pass',
        "a RegionBuilder",
        "publish it, pass its name",
    ),
    "Pinner": ("thing = shmclient.Pinner()", "a Pinner", "pass the data"),
    "Pinned": ("pinner = shmclient.Pinner(); thing = pinner.pin(b'')", "a Pinned", "pass the data"),
    "IoVec": ("pinner = shmclient.Pinner(); thing = pinner.iovec([b'1'])", "an IoVec", "pass the data"),
    "EmbeddedHost": ("thing = shmhost.start()", "an EmbeddedHost", "pass its socket_path, and connect"),
    "posix.Mapping": (
        "from shmclient import posix\n"
        "thing = posix.mmap(0, 4096, posix.PROT_READ, posix.MAP_PRIVATE | posix.MAP_ANONYMOUS)",
        "a Mapping",
        "pass the descriptor, and mmap it",
    ),
    "AsyncClient": (
        "thing = asyncio.run(shmclient.aio.connect(path))",
        "an AsyncClient",
        "pass its socket_path, and connect",
    ),
    "AsyncRegion": (
        "async def main(): return await (await shmclient.aio.connect(path)).put('a', b'1')\n"
        "thing = asyncio.run(main())",
        "an AsyncRegion",
        "pass its name and generation, and open it",
    ),
    "AsyncWatch": (
        "async def main(): return (await shmclient.aio.connect(path)).watch()\nthing = asyncio.run(main())",
        "an AsyncWatch",
        "pass the name",
    ),
    "AsyncFollow": (
        "async def main(): return (await shmclient.aio.connect(path)).follow('a')\n"
        "thing = asyncio.run(main())",
        "an AsyncFollow",
        "pass the name",
    ),
}


@pytest.mark.parametrize(("factory", "name", "remedy"), OBJECTS.values(), ids=OBJECTS.keys())
def test_pickle_and_copy_say_what_to_pass_instead_of_a(
    factory: str, name: str, remedy: str, host: WatchedHost
) -> None:
    """A copy would share the descriptor, lease or pin, and its end would close that of the original."""
    script = f"""
calls = "pickle.dumps(thing)", "copy.copy(thing)", "copy.deepcopy([thing])"
refused(TypeError, "{name} cannot be pickled or copied: {remedy}", *calls)
"""
    assert run(factory + "\n" + script, host) == (0, "", "")
