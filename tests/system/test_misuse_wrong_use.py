"""Wrong use is told: an error that says what to do, no hang, and nothing on stderr that nobody raised.

Each script runs in a process of its own against a host elsewhere, which has got everything back afterwards.
"""

from __future__ import annotations

import pytest

from misuse import run_client
from support import WatchedHost

# How each object is made, and what a process that needs another one has to do instead.
OBJECTS = {
    "Client": ("thing = shm", "a Client", "pass its socket_path, and connect"),
    "Watch": ("thing = shm.watch()", "a Watch", "pass the name"),
    "Follow": ('thing = shm.follow("a")', "a Follow", "pass the name"),
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
    assert run_client(factory + "\n" + script, host) == (0, "", "")


CLIENT_CALLS = """
calls = [
    'shm.put("a", b"1")', 'shm.get("a")', 'shm.get("a", wait=60)', 'shm.get("a", after=1)', 'shm.open("a")',
    'shm.open_many(["a"])', 'shm.create("b", 99).__enter__()', 'shm.list()', 'shm.stat("a")', '"a" in shm',
    'shm.exists("a")', 'shm.unlink("a")', 'shm.chmod("a", 0o600)', 'shm.watch()', 'shm.watch(wait=math.inf)',
    'next(shm.follow("a"))', 'shm.fileno()',
]
"""
HANDLE_CALLS = """
calls = [
    "region.address", "region.is_relocated", "region.header", "region.data", "region.metadata",
    "region.fileno()", "region.translate(inside)", "region.root(ffi, 'int *')", "pinner.pin(region)",
    "pinner.iovec([region])", "shmclient.check_pointers(region, ffi, 'int *')",
]
"""
# The statement of each row, and the script that shows it: whatever it raises is a failure.
AFTER_CLOSE = {
    "a closed client refuses each call with ClientClosed": CLIENT_CALLS
    + """
changes, values, region = shm.watch(), shm.follow("a"), shm.put("a", b"1")
shm.close(); shm.close()
refused(ClientClosed, "connect again", *calls, "next(changes)", "next(values)", "region.is_current()")
assert bytes(region.data) == b"1"
""",
    "a client closed by its block refuses each call with ClientClosed": CLIENT_CALLS
    + """
with shm: pass
refused(ClientClosed, "connect again", *calls)
""",
    "a closed handle refuses its memory with RegionClosed and keeps its facts": HANDLE_CALLS
    + """
region, pinner = shm.put("a", b"123"), shmclient.Pinner()
view, inside = region.data, region.address
region.close(); region.close()
refused(RegionClosed, "the handle of 'a' is closed", *calls)
assert (region.name, region.generation, region.size, region.is_current()) == ("a", 1, 3, True)
assert bytes(view) == b"123"
""",
    "a published builder refuses each change with RegionClosed": """
with shm.create("a", 99) as builder: pointer = builder.new(ffi, "int *")
refused(
    RegionClosed, "published", "builder.data", "builder.alloc(1)", "builder.new(ffi, 'int *')",
    "builder.bytes(b'1')", "builder.array(1, 'u1')", "builder.set_root(pointer)", "builder.fileno()",
)
""",
    "a writer's published builder refuses a new root and new arrays with RegionClosed": """
with shm.create("a", 999, seal="writer") as builder: pointer = builder.new(ffi, "int *")
refused(RegionClosed, "published", "builder.array(1, 'u1')", "builder.set_root(pointer)", "builder.fileno()")
builder.data[0] = builder.new(ffi, "int *", 1)[0]
""",
    "an aborted builder refuses each change with RegionClosed": """
with contextlib.suppress(ZeroDivisionError), shm.create("a", 99) as builder:
    pointer = builder.new(ffi, "int *")
    1 / 0
refused(
    RegionClosed, "given up", "builder.data", "builder.alloc(1)", "builder.new(ffi, 'int *')",
    "builder.bytes(b'1')", "builder.array(1, 'u1')", "builder.set_root(pointer)", "builder.fileno()",
)
""",
    "a closed watch and a closed follow are over": """
shm.put("a", b"1")
for stream in shm.watch(), shm.follow("a"):
    stream.close(); stream.close()
    assert list(stream) == []
    with stream: assert next(stream, None) is None
""",
    "an unpinned pin refuses each use with PinReleased": """
pinner = shmclient.Pinner(); pin = pinner.pin(bytearray(8)); slot = ffi.new("void **")
pin.unpin(); pin.unpin(); pinner.unpin()
refused(PinReleased, "Pin it again", "pin.address", "pin.size", "pin.readonly", "pin.store(slot)")
""",
    "an unpinned iovec refuses each use with PinReleased": """
pinner = shmclient.Pinner(); iov = pinner.iovec([bytearray(8)])
iov.unpin(); iov.unpin(); pinner.unpin()
calls = "iov.address", "iov.nbytes", "iov[0]", "list(iov)", "shmclient.readv(0, iov)", "os.readv(0, iov)"
refused(PinReleased, "make a new one", *calls)
""",
    "an unpinned Pinner pins again": """
pinner = shmclient.Pinner()
for _ in range(2):
    pinner.pin(bytearray(8)); pinner.unpin(); pinner.unpin()
assert len(pinner) == 0
""",
    "a closed embedded host refuses new clients with HostGone": """
host = shmhost.start(); client = shmclient.connect(host.socket_path)
host.close(); host.close()
with host: pass
refused(shmclient.HostGone, "", "shmclient.connect(host.socket_path)", "client.list()")
""",
    "a closed async client refuses each call with ClientClosed": """
async def main():
    ashm = await shmclient.aio.connect(path)
    region, changes, values = await ashm.put("a", b"1"), await ashm.watch(), ashm.follow("a")
    await ashm.aclose(); await ashm.aclose()
    for call in (
        ashm.put("a", b"1"), ashm.get("a"), ashm.get("a", wait=60), ashm.open("a"), ashm.open_many(["a"]),
        ashm.create("b", 99).__aenter__(), ashm.list(), ashm.stat("a"), ashm.exists("a"), ashm.unlink("a"),
        ashm.chmod("a", 0o600), ashm.watch().__aenter__(), anext(changes), anext(values), region.is_current(),
        ashm.__aenter__(),
    ):
        try: print(await call)
        except ClientClosed as error: assert "connect again" in str(error)
asyncio.run(main())
""",
    "a closed async watch and a closed async follow are over": """
async def main():
    async with await shmclient.aio.connect(path) as ashm:
        await ashm.put("a", b"1")
        for stream in await ashm.watch(), await ashm.follow("a"):
            stream.close(); await stream.aclose()
            assert [each async for each in stream] == []
asyncio.run(main())
""",
}


@pytest.mark.parametrize("script", AFTER_CLOSE.values(), ids=AFTER_CLOSE.keys())
def test_after_its_end(script: str, host: WatchedHost) -> None:
    assert run_client(script, host) == (0, "", "")


WAITS = {
    "get": 'shm.get("missing", wait=math.inf)',
    "open": 'shm.open("missing", wait=600)',
    "get after a generation": 'shm.get("a", after=1, wait=math.inf)',
    "watch": "next(shm.watch())",
    "a watch that resumes": "next(shm.watch(wait=math.inf))",
    "follow": "next(shm.follow('missing'))",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_close_by_another_thread_ends_with_client_closed_a_blocked(wait: str, host: WatchedHost) -> None:
    script = f"""
shm.put("a", b"1")
def run():
    try: {wait}
    except ClientClosed as error: print(error)
waiting = threading.Thread(target=run)
waiting.start()
sys.stdin.readline()
shm.close()
waiting.join()
"""
    assert run_client(script, host, waits=1) == (0, "the client is closed: connect again\n", "")
