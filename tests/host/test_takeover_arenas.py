"""Arenas across takeovers: owners write on, nothing that is held is used again, and readers hear of all."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import shmclient
import shmclient.aio
from arena_support import SIZE, ArenaPeer, Board, stat
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ARENA_BOARD
from shmprotocol.wire.query import Query
from support import in_child, wait_until
from takeover_support import HalfSuccessor, Line, line_of_hosts

ROOM = 1 << 20  # bytes of an arena, in which some 15 values of 64 KiB fit
VALUE = 65_000


NO_PIDFD = """
from shmhost.serving import server
server.peer_pidfd = lambda _socket: None
"""


@pytest.fixture
def line(folder: Path, request: pytest.FixtureRequest) -> Iterator[Line]:
    """A line of hosts; a parameter is what each of them runs first."""
    with line_of_hosts(folder / "h", first=getattr(request, "param", "")) as hosts:
        yield hosts


@pytest.fixture
def shm(line: Line) -> Iterator[shmclient.Client]:
    with shmclient.connect(line.path) as client:
        yield client


def rewrite(arena: shmclient.Arena, times: int = 100) -> None:
    """Replace a value so often that all memory is used again and again."""
    for number in range(times):
        arena["x"] = bytes([number % 256]) * VALUE


def test_owner_uses_its_memory_again_and_never_what_a_new_reader_holds(
    line: Line, shm: shmclient.Client
) -> None:
    with shm.arena("arena", size=ROOM) as arena:
        for count in range(3):
            arena["x"] = bytes([200 + count]) * VALUE
            line.take_over()
            with shmclient.connect(line.path) as other:
                value = other.get("arena/x")
                rewrite(arena)
                assert bytes(value) == bytes([200 + count]) * VALUE
                assert bytes(other.get("arena/x")) == bytes([99]) * VALUE
                del value


def test_owner_that_connected_to_the_host_before_looks_at_the_board_of_the_next(line: Line) -> None:
    """Its Welcome came with the board of the host before, and no line of that is the arena's."""
    with shmclient.connect(line.path) as shm, shmclient.connect(line.path) as other:
        line.take_over()
        with shm.arena("arena", size=ROOM) as arena:
            arena["x"] = b"1" * VALUE
            value = other.get("arena/x")
            rewrite(arena)
            assert bytes(value) == b"1" * VALUE
            del value


def test_arena_grows_after_a_takeover(line: Line, shm: shmclient.Client) -> None:
    with (
        shm.arena("arena", size=ROOM, max_size=64 * ROOM) as arena,
        shmclient.connect(line.path) as other,
        other.open_arena("arena") as view,
    ):
        arena["small"] = b"1"
        assert bytes(view["small"]) == b"1"
        line.take_over()
        arena["large"] = b"2" * 20 * ROOM
        assert bytes(view["large"][-5:]) == b"22222"
        assert shm.stat("arena").capacity > 20 * ROOM


def test_follower_of_a_value_gets_each_once(line: Line, shm: shmclient.Client) -> None:
    values: list[bytes] = []
    with shm.arena("arena", size=ROOM) as arena, shmclient.connect(line.path) as other:
        arena["x"] = b"0"

        def follow() -> None:
            for value in other.follow("arena/x"):
                values.append(bytes(value))
                if bytes(value) == b"end":
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        for number in range(4):
            wait_until(lambda number=number: len(values) > number)
            line.take_over()
            arena["x"] = b"%d" % (number + 1) if number < 3 else b"end"
        thread.join(30)
    assert values == [b"0", b"1", b"2", b"3", b"end"]


async def test_async_wait_for_a_value_goes_on(line: Line, shm: shmclient.Client, anyio_backend: str) -> None:
    values: list[bytes] = []
    has_begun = anyio.Event()
    with shm.arena("arena", size=ROOM) as arena:
        arena["x"] = b"1"
        async with await shmclient.aio.connect(line.path) as ashm, anyio.create_task_group() as tasks:

            async def follow() -> None:
                async for value in ashm.follow("arena/x"):
                    values.append(bytes(value))
                    has_begun.set()
                    if bytes(value) == b"2":
                        return

            tasks.start_soon(follow)
            with anyio.fail_after(20):
                await has_begun.wait()
            await anyio.to_thread.run_sync(line.take_over)
            arena["x"] = b"2"
    assert values == [b"1", b"2"]


def test_reader_follows_to_an_arena_that_takes_the_name_later(line: Line, shm: shmclient.Client) -> None:
    with shm.arena("arena", size=ROOM) as arena, shmclient.connect(line.path) as other:
        arena["x"] = b"1"
        assert bytes(other.get("arena/x")) == b"1"
        line.take_over()
        with shm.arena("arena", size=ROOM, replace=True) as following:
            following["x"] = b"2"
            assert bytes(other.get("arena/x")) == b"2"
            with other.open_arena("arena") as view:
                assert bytes(view["x"]) == b"2"


def test_messages_that_wait_for_the_owner_come_in_their_order(line: Line) -> None:
    """It reads none, and the kernel takes a few."""
    with ArenaPeer(line.path) as owner, contextlib.ExitStack() as stack:
        owned = owner.publish()
        readers = [stack.enter_context(ArenaPeer(line.path)) for _ in range(40)]
        ledgers = [reader.open("camera").ledger[0] for reader in readers]
        line.take_over()
        more = ArenaPeer(line.path)
        ledgers.append(more.open("camera").ledger[0])
        readers[0].close()
        assert [owned.ledger() for _ in ledgers] == ledgers
        assert owned.forgotten() == ledgers[0]
        more.close()
        assert owned.forgotten() == ledgers[-1]


def test_answer_that_says_where_the_board_is_comes_from_the_next_host(line: Line) -> None:
    """The socket of one of the owners has room for all that came before, and not for the answer."""
    names = [f"camera{number}" for number in range(16)]
    with ArenaPeer(line.path) as owner, contextlib.ExitStack() as stack:
        owners = [owner.publish(name) for name in names]
        for number in range(1, len(names)):
            stack.enter_context(ArenaPeer(line.path)).open(*names[number:])
        for owned in owners:
            owned.send(ARENA_BOARD)
        for _ in range(3):
            stat(owner, names[0])  # what came before is handled then
        line.take_over()
        for number, owned in enumerate(owners):
            for _ in range(number):
                owned.ledger()
            note = owned.receive()
            assert (note.kind, len(note.descriptors)) == (ARENA_BOARD, 1), number
            descriptors.close_all(note.descriptors)


def test_arena_that_is_being_made_is_published_by_the_next_host(line: Line) -> None:
    with ArenaPeer(line.path) as owner, ArenaPeer(line.path) as reader:
        owned = owner.make("camera", SIZE, 4 * SIZE)
        line.take_over()
        assert owned.ready() == 0
        assert reader.open("camera").grants[0].region == owned.made.region
        assert owned.ledger()
        line.take_over()
        assert owned.grow(2 * SIZE) == (0, 2 * SIZE)
        assert stat(reader).capacity == 2 * SIZE


def test_board_of_the_host_before_keeps_owners_from_using_anything_again(line: Line) -> None:
    with ArenaPeer(line.path) as owner, ArenaPeer(line.path) as reader:
        owned = owner.publish()
        reader.open("camera")
        before = Board(line.path)
        said = before.line(owned.made.line)
        line.take_over()
        after = Board(line.path)
        moved = before.line(owned.made.line)
        assert (said.ledgers, moved.ledgers) == (1, 1 + (1 << 30))
        assert moved.waiters
        assert moved.changes > said.changes
        assert after.line(owned.made.line).ledgers == 1
        assert after.line(owned.made.line).region == owned.made.region
        assert owned.ledger()
        note = owned.ask(ARENA_BOARD)
        assert (note.number, len(note.descriptors)) == (owned.made.line, 1)
        assert os.fstat(note.descriptors[0]).st_size == note.size
        descriptors.close_all(note.descriptors)
        before.close()
        after.close()


def test_owner_is_followed_when_it_goes_after_a_takeover(line: Line) -> None:
    with ArenaPeer(line.path) as reader:
        with ArenaPeer(line.path) as owner, ArenaPeer(line.path) as other:
            owner.publish("kept")
            other.publish("gone", keep=False)
            reader.open("kept", "gone")
            line.take_over()
        wait_until(lambda: not stat(reader, "kept").arena.has_owner)
        assert reader.refusal(m.Stat(6, "gone")).code == "not-found"


def test_ledger_of_a_killed_reader_is_forgotten(line: Line) -> None:
    with ArenaPeer(line.path) as owner:
        owned = owner.publish()
        with ArenaPeer(line.path) as reader:
            number = reader.open("camera").ledger[0]
            line.take_over()
            assert owned.ledger() == number
        assert owned.forgotten() == number


@pytest.mark.parametrize("line", ["", NO_PIDFD], ids=["pidfd", "before Linux 6.5"], indirect=True)
def test_ledger_of_a_dropped_client_that_uses_values_stays(line: Line, shm: shmclient.Client) -> None:
    """Also with the next host, until its process ends."""
    ready, over = os.pipe(), os.pipe()

    def use() -> None:
        with shmclient.connect(line.path) as other:
            value = other.get("arena/x")
            other._core.channel.outbox._sock.send(b"\xff\xff\xff\xff")  # a frame that no host takes
            os.write(ready[1], b"1")
            os.read(over[0], 1)
            assert bytes(value) == b"1" * VALUE

    with shm.arena("arena", size=ROOM) as arena:
        arena["x"] = b"1" * VALUE
        child = threading.Thread(target=lambda: codes.append(in_child(use)))
        codes: list[int] = []
        child.start()
        os.read(ready[0], 1)
        with Query(line.path) as query:
            wait_until(lambda: query.measure().dropped == 1)
        line.take_over()
        rewrite(arena)
        with Query(line.path) as query:
            assert query.measure().ledgers == 1
            os.write(over[1], b"1")
            child.join(30)
            assert codes == [0]
            wait_until(lambda: query.measure().ledgers == 0)
    for descriptor in (*ready, *over):
        os.close(descriptor)


def test_owner_and_readers_go_on_when_the_successor_dies_after_go(line: Line, shm: shmclient.Client) -> None:
    with shm.arena("arena", size=ROOM) as arena, shmclient.connect(line.path) as other:
        arena["x"] = b"1" * VALUE
        value = other.get("arena/x")
        successor = HalfSuccessor(line.path)
        for step in ("ask", "hear", "start", "read_all", "ready", "let_go", "die"):
            getattr(successor, step)()
        with shmclient.connect(line.path) as another:
            second = another.get("arena/x")
            rewrite(arena)
            assert bytes(value) == bytes(second) == b"1" * VALUE
            del second
        del value
        line.take_over()
        rewrite(arena)


def test_client_of_version_3_makes_no_arena_on_the_board_that_it_has(line: Line) -> None:
    """It would look at a line of that, which nobody writes."""
    with ArenaPeer(line.path, 3) as old, ArenaPeer(line.path) as reader:
        line.take_over()
        refused = old.refusal(m.Arena(2, "camera", SIZE, 0, 0o600, True, True))
        assert (refused.code, "connect again" in refused.text) == ("unsupported", True)
        with ArenaPeer(line.path, 3) as new:
            new.publish()
            assert reader.open("camera")


def test_charges_of_arenas_and_ledgers_are_as_before(line: Line, shm: shmclient.Client) -> None:
    def used() -> tuple[int, int, int]:
        with Query(line.path) as query:
            measured = query.measure()
            return measured.used, measured.arenas, measured.ledgers

    with shm.arena("arena", size=ROOM, max_size=4 * ROOM) as arena, shmclient.connect(line.path) as other:
        arena["x"] = b"1"
        assert bytes(other.get("arena/x")) == b"1"
        before = used()
        line.take_over()
        assert used() == before
    shm.unlink("arena")
    wait_until(lambda: used()[1:] == (0, 0))
    assert used()[0] == 0
