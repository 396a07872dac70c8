"""Use in another event loop, on another thread or in another process, and without await, is told.

Each script runs in a process of its own against a host elsewhere, which has got everything back afterwards.
"""

from __future__ import annotations

import pytest

from misuse import run_client
from support import WatchedHost

ASYNC_USES = """
from shmclient import WrongEventLoop

async def refused_async(text):
    async def create():
        async with ashm.create("b", 99): pass
    uses = [
        ashm.put("a", b"1"), ashm.get("a"), ashm.get("missing", wait=600), ashm.open("a"), ashm.list(),
        ashm.exists("a"), ashm.watch().__aenter__(), anext(ashm.follow("a")), anext(changes), anext(values),
        region.is_current(), create(), ashm.__aenter__(),
    ]
    for use in uses:
        try: print(use, await use)
        except WrongEventLoop as error: assert text in str(error), error

async def start():
    global ashm, region, changes, values
    ashm = await shmclient.aio.connect(path)
    region, changes, values = await ashm.put("a", b"1"), await ashm.watch(), await ashm.follow("a")
"""
ELSEWHERE = 'refused_async("belongs to another event loop")'
ASYNC = {
    "another loop refuses a client whose loop is over": f"""
asyncio.run(start())
asyncio.run({ELSEWHERE})
changes.close(); values.close(); region.close()
asyncio.run(ashm.aclose())
""",
    "trio refuses the client of an asyncio loop": f"""
import trio
asyncio.run(start())
trio.run(lambda: {ELSEWHERE})
""",
    "asyncio refuses the client of a trio loop": f"""
import trio
trio.run(start)
asyncio.run({ELSEWHERE})
""",
    "a second trio loop refuses the client of the first": f"""
import trio
trio.run(start)
trio.run(lambda: {ELSEWHERE})
""",
    "a loop on another thread refuses a client, whose own tasks go on": f"""
async def main():
    await start()
    waiting = [asyncio.create_task(ashm.get("b", wait=math.inf)), asyncio.create_task(anext(changes))]
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.to_thread(lambda: asyncio.run({ELSEWHERE}))
    async def end():
        for use in ashm.aclose(), changes.aclose():
            try: print(await use)
            except WrongEventLoop: pass
    await asyncio.to_thread(lambda: asyncio.run(end()))
    await ashm.put("b", b"2")
    assert bytes(await waiting[0]) == b"2"
    await waiting[1]
    await ashm.aclose()
asyncio.run(main())
""",
    "a block of create that ends in another loop is given up": """
async def enter(): await start(); await block.__aenter__()
async def main():
    global ashm, block
    ashm = await shmclient.aio.connect(path)
    block = ashm.create("b", 99)
    await block.__aenter__()
async def end():
    try: await block.__aexit__(None, None, None)
    except WrongEventLoop: pass
asyncio.run(main()); asyncio.run(end())
assert not shm.exists("b")
shm.put("b", b"1")
""",
    "a child that is forked inside a running loop can use the client in its own loop": """
async def main():
    await start()
    waiting = asyncio.create_task(anext(changes))
    await ashm.list()  # the task above waits from here on
    child = os.fork()
    if child == 0:
        asyncio.run(use())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    await ashm.put("b", b"2")
    assert (await waiting).info.name == "b"
    await ashm.aclose()
async def use():
    assert bytes(await ashm.get("a")) == b"1"
    try: print(await anext(changes))
    except shmclient.HostGone as error: assert "belongs to the parent process" in str(error)
    await ashm.aclose()
asyncio.run(main())
""",
    "no loop at all is told to start one": """
try: shmclient.aio.connect(path).send(None)
except WrongEventLoop as error: assert "asyncio.run" in str(error)
""",
}


@pytest.mark.parametrize("script", ASYNC.values(), ids=ASYNC.keys())
def test_event_loop(script: str, host: WatchedHost) -> None:
    assert run_client(ASYNC_USES + script, host, waits=3 if "readline" in script else 0) == (0, "", "")


FORGOTTEN = {
    "await of put": ("ashm.put('b', b'1').name", "AsyncClient.put"),
    "await of get": ("bytes(ashm.get('a'))", "AsyncClient.get"),
    "await of connect": ("shmclient.aio.connect(path).put", "connect"),
    "await of connect in async with": (
        "with_async(shmclient.aio.connect(path)).send(None)",
        "connect",
    ),
    "async of a client's with": ("exec('with ashm: pass')", ""),
    "async of create's with": ("exec('with ashm.create(chr(98), 99): pass')", ""),
    "async of for": ("exec('for change in ashm.watch(): pass')", ""),
    "that a client is not async in async for": ("aiter(shm.watch())", ""),
}


@pytest.mark.parametrize(("use", "coroutine"), FORGOTTEN.values(), ids=FORGOTTEN.keys())
def test_forgotten(use: str, coroutine: str, host: WatchedHost) -> None:
    """Python itself says so, at the place, and what was not awaited has done nothing."""
    script = f"""
async def with_async(block):
    async with block: pass
async def main():
    global ashm
    async with await shmclient.aio.connect(path) as ashm:
        refused((TypeError, AttributeError), "", {use!r})
        gc.collect()
        assert await ashm.list() == []
asyncio.run(main())
"""
    code, out, err = run_client(script, host)
    assert (code, out) == (0, "")
    warning = f"coroutine '{coroutine}' was never awaited"
    assert warning in err if coroutine else err == ""


FORKED = {
    "a client connects anew": 'shm.put("b", b"1"); assert bytes(shm.get("a")) == b"1"',
    "a region stays readable": 'assert bytes(region.data) == b"1"; assert region.is_current()',
    "a watch ends with HostGone that says why": (
        'refused(shmclient.HostGone, "belongs to the parent process", "next(changes)")'
    ),
    "a follow goes on by a new connection": 'shm.put("a", b"2"); assert bytes(next(values)) == b"2"',
    "close takes nothing from the parent": "shm.close(); region.close(); changes.close(); values.close()",
    "an async client connects anew": "asyncio.run(use_async())",
}


@pytest.mark.parametrize("use", FORKED.values(), ids=FORKED.keys())
def test_in_a_forked_child(use: str, host: WatchedHost) -> None:
    script = f"""
async def start():
    ashm = await shmclient.aio.connect(path)
    return ashm, await ashm.watch()
async def use_async():
    async with ashm: assert bytes(await ashm.get("a")) == b"1"
region, changes, values = shm.put("a", b"1"), shm.watch(), shm.follow("a")
next(values)
ashm, async_changes = asyncio.run(start())
child = os.fork()
if child == 0:
    {use}
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert bytes(shm.get("a")) in (b"1", b"2")
shm.put("a", b"3"); next(changes); next(values)
"""
    assert run_client(script, host) == (0, "", "")
