"""Followed names over hosts that go and come back, and the pure part of watches."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmclient
import shmclient.aio
from shmclient._connection.exchange import Exchange, Subscription
from shmclient._connection.outbox import Outbox
from shmclient._connection.retry import Retry
from shmclient._drivers.following import Changes, Listener
from shmclient._drivers.steps import Ask, Context, Next
from shmprotocol.wire import messages as m
from support import Machine, WatchedHost, count_waits, drop_clients, put_values, wait_until

# --- follow


def test_follow_gives_the_value_now_and_each_newer_one_over_a_killed_host(machine: Machine) -> None:
    put_values(machine.path, model=b"1")
    values: list[bytes] = []
    has_value = threading.Condition()

    def follow() -> None:  # as a program does that nobody restarts
        with shmclient.connect(machine.path) as shm, shm.follow("model") as models:
            for model in models:
                with has_value:
                    values.append(bytes(model))
                    has_value.notify()
                if values[-1] == b"end":
                    return

    def await_value(value: bytes) -> None:
        with has_value:
            assert has_value.wait_for(lambda: value in values, 30)

    with ThreadPoolExecutor() as pool:
        following = pool.submit(follow)
        await_value(b"1")
        put_values(machine.path, model=b"2")
        await_value(b"2")
        machine.kill()
        machine.start()
        put_values(machine.path, model=b"3")
        await_value(b"3")
        put_values(machine.path, model=b"end")
        following.result(30)
    assert values == [b"1", b"2", b"3", b"end"]


@pytest.mark.anyio
async def test_async_follow_goes_on_over_a_killed_host(machine: Machine, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(machine.path) as ashm:
        values = []

        async def follow() -> None:
            async for model in ashm.follow("model"):
                values.append(bytes(model))
                came.set()

        async def await_value(value: bytes) -> None:
            nonlocal came
            with anyio.fail_after(30):
                await came.wait()
            came = anyio.Event()
            assert values[-1] == value

        came = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()  # it waits for the first one
            for value in (b"1", b"2"):
                (await ashm.put("model", value)).close()
                await await_value(value)
            machine.kill()
            machine.start()
            (await ashm.put("model", b"3")).close()
            await await_value(b"3")
            tasks.cancel_scope.cancel()
        assert values == [b"1", b"2", b"3"]


def test_follow_gives_the_newest_of_those_that_passed(shm: shmclient.Client) -> None:
    values = shm.follow("x")
    for number in range(3):
        shm.put("x", b"%d" % number).close()
    assert bytes(next(values)) == b"2"
    for number in range(3, 6):
        shm.put("x", b"%d" % number).close()
    shm.put("xx", b"another name").close()
    assert bytes(next(values)) == b"5"


def test_follow_tells_nothing_twice_when_only_the_connection_broke(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"1").close()
    with shm.follow("x") as values, ThreadPoolExecutor() as pool:
        assert bytes(next(values)) == b"1"
        following = pool.submit(next, values)
        drop_clients(host)
        shm.chmod("x", 0o640)
        assert not following.done()
        shm.put("x", b"2").close()
        assert bytes(following.result(30)) == b"2"


def test_follow_waits_for_a_name_that_is_unlinked(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    with shm.follow("x") as values, ThreadPoolExecutor() as pool:
        assert bytes(next(values)) == b"1"
        following = pool.submit(next, values)
        shm.unlink("x")
        wait_until(lambda: not shm.list())
        shm.put("x", b"2").close()
        assert bytes(following.result(30)) == b"2"


def test_follow_ends_its_wait_for_a_name_and_can_go_on(shm: shmclient.Client) -> None:
    with shm.follow("x", wait=0.05) as values:
        with pytest.raises(shmclient.WaitTimeout, match="'x' did not appear"):
            next(values)
        shm.put("x", b"1").close()
        assert bytes(next(values)) == b"1"
        shm.unlink("x")
        with pytest.raises(shmclient.WaitTimeout, match="'x' did not appear"):
            next(values)


def test_follow_ends_its_wait_for_a_host(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, shm.follow("x", wait=0.05) as values:
        shm.put("x", b"1").close()
        next(values)
        machine.kill()
        with pytest.raises(shmclient.WaitTimeout, match="no host answered"):
            next(values)


def test_follow_without_wait_waits_for_nothing_but_news(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, shm.follow("x", wait=None) as values:
        with pytest.raises(shmclient.RegionNotFound) as caught:
            next(values)
        assert not isinstance(caught.value, shmclient.WaitTimeout)
        shm.put("x", b"1").close()
        next(values)
        machine.kill()
        with pytest.raises(shmclient.HostGone):
            next(values)


def test_follow_says_what_is_wrong_with_the_value(shm: shmclient.Client) -> None:
    with shm.create("x", 100), pytest.raises(shmclient.InvalidArgument):
        shm.follow("../x")
    with pytest.raises(shmclient.InvalidArgument, match="wait is a number"):
        next(shm.follow("x", wait=-1))


@pytest.mark.parametrize("start", [lambda shm: shm.follow("x"), lambda shm: shm.watch("x", wait=math.inf)])
def test_iterator_that_is_given_up_is_over_for_the_host(
    start: Callable[[shmclient.Client], Iterator[Any]], host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"1").close()
    with ThreadPoolExecutor() as pool:

        def use() -> None:
            for _ in start(shm):
                break

        using = pool.submit(use)
        wait_until(lambda: count_waits(host) == 1 or using.done())
        shm.put("x", b"2").close()
        using.result(30)
    wait_until(lambda: count_waits(host) == 0)


@pytest.mark.anyio
async def test_cancelled_follow_is_over_for_the_host(host: WatchedHost, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(host.socket_path) as ashm:
        for wait_for_name in (True, False):
            with anyio.move_on_after(0.1):
                async for _ in ashm.follow("x"):
                    assert not wait_for_name
            await ashm.list()
            wait_until(lambda: count_waits(host) == 0)
            (await ashm.put("x", b"1")).close()


@pytest.mark.parametrize("is_absent", [True, False])
@pytest.mark.parametrize("is_client", [True, False])
def test_close_ends_a_blocked_follow(is_absent: bool, is_client: bool, host: WatchedHost) -> None:
    shm = shmclient.connect(host.socket_path)
    if not is_absent:
        shm.put("x", b"1").close()
    values, seen = shm.follow("x"), []
    with ThreadPoolExecutor() as pool:
        loop = pool.submit(lambda: seen.extend(bytes(value) for value in values))
        wait_until(lambda: count_waits(host) == 1 if is_absent else len(seen) == 1)
        if is_client:
            shm.close()
            with pytest.raises(shmclient.ClientClosed, match="the client is closed"):
                loop.result(30)
        else:
            values.close()
            loop.result(30)
            assert list(values) == []
    shm.close()


def test_close_ends_a_follow_that_waits_for_a_host(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, ThreadPoolExecutor() as pool:
        values = shm.follow("x")
        shm.put("x", b"1").close()
        next(values)
        loop = pool.submit(list, values)
        machine.kill()
        values.close()
        assert loop.result(30) == []


# --- the pure part


def info(name: str, region: int) -> m.RegionInfo:
    fields = dict.fromkeys(m.RegionInfo._fields, 0)
    return m.RegionInfo(**fields | {"name": name, "region": region})  # type: ignore[arg-type]


def test_absence_is_counted_from_the_last_event() -> None:
    now = 0.0
    retry = Retry(1.0, lambda: now)
    listener = Listener("x")
    listener._subscription = Subscription(1)
    waiting = listener.next(retry)
    assert isinstance(next(waiting), Next)
    now = 1000.0
    with pytest.raises(shmclient.HostGone):
        waiting.throw(shmclient.HostGone("gone"))
    assert retry.remaining() == 1.0


class ModelHost:
    """A host of one connection after the other, as far as a watch sees it."""

    def __init__(self) -> None:
        self.names: dict[str, m.RegionInfo] = {}
        self._number = 0
        self._life = 0
        self._watch: tuple[Context, int] | None = None

    def connect(self, context: Context) -> None:
        self._life += 1
        context.outbox.host_id = f"host {self._life}"
        self._number, self._watch = 0, None
        self.names.clear()

    def change(self, name: str, is_published: bool) -> None:
        if is_published:
            self._number += 1
            self.names[name] = info(name, self._number)
            self._tell("published", self.names[name])
        elif name in self.names:
            self._tell("unlinked", self.names.pop(name))

    def _tell(self, kind: str, region: m.RegionInfo) -> None:
        if self._watch is not None:
            context, number = self._watch
            context.exchange._watches[number].add(m.Event(number, kind, region))

    def answer(self, context: Context, request: m.Message) -> tuple[m.Message, list[int]]:
        if isinstance(request, m.Watch):
            self._watch = (context, request.id)
            return m.Done(request.id), []
        assert isinstance(request, m.List)
        page = sorted(name for name in self.names if name > request.after)
        return m.Listed(request.id, tuple(self.names[name] for name in page[:1]), len(page) > 1), []


STEPS = st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=4), max_size=12)


@given(st.lists(st.tuples(STEPS, st.lists(st.tuples(st.sampled_from("abc"), st.booleans()))), max_size=4))
def test_changes_lead_to_what_the_host_has(lives: list[tuple[Any, Any]]) -> None:
    """Whatever happens between the requests of a start, and later: to apply all changes gives the state."""
    host, changes, state = ModelHost(), Changes("", resumes=True), dict[str, tuple[str, int]]()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        is_first = True
        for during, after in lives:
            context = Context(Outbox(ours, lambda: None), Exchange(), lambda: None)
            host.connect(context)
            starting = changes.start(context, Retry(None))
            moves = iter(during)
            outcome = None
            try:
                while True:
                    step = starting.send(outcome)  # type: ignore[arg-type]
                    assert isinstance(step, Ask)
                    outcome = host.answer(context, step.request)
                    for name, is_published in next(moves, ()):
                        host.change(name, is_published)
            except StopIteration:
                pass
            if is_first:  # changes are told from now on; the state before them is listed
                state, is_first = {}, False
            for name, is_published in after:
                host.change(name, is_published)
            while (change := changes.pending(lambda region: False)) is not None:
                if change.kind == "published":
                    region = (context.outbox.host_id, change.info.number)
                    assert state.get(change.info.name) != region  # nothing is told twice
                    state[change.info.name] = region
                else:
                    del state[change.info.name]  # and nothing is taken away that was not there
            host_id = context.outbox.host_id
            assert state == {name: (host_id, region.region) for name, region in host.names.items()}
