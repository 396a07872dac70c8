"""Names that may come back after a kill of their host: they have some time until they are missing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from test_returns import hand_back, holding, put

import shmclient
import shmclient.aio
from shmprotocol.errors import RegionNotFound
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import MAX_DESCRIPTORS
from shmprotocol.wire.query import Query
from support import Machine, RawPeer, as_nobody, serve, wait_until
from takeover_support import line_of_hosts

EVER_S = "60.0"
NOT_BACK = "no client has handed it back yet"
HURRIED = "import shmhost.serving.patience as patience; patience.PATIENCE_S = 0.0"


def restart(machine: Machine, first: str) -> None:
    machine.kill()
    machine.child = serve(Path(machine.path), first)


def patient(seconds: str = EVER_S) -> str:
    return f"import shmhost.serving.patience as patience; patience.PATIENCE_S = {seconds}"


def listeners(path: str) -> int:
    with Query(path) as query:
        return query.measure().listeners


def test_get_without_a_wait_gets_the_name_that_comes_back(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,), ThreadPoolExecutor() as pool:
        restart(machine, patient())
        with shmclient.connect(machine.path) as shm, RawPeer(machine.path) as peer:
            got = pool.submit(shm.get, "x")
            wait_until(lambda: listeners(machine.path) == 1 or got.done())
            hand_back(peer, (held.grant.region, held.descriptor))
            assert bytes(got.result(30)) == b"1"


def test_stat_and_exists_wait_as_get_does(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,), ThreadPoolExecutor() as pool:
        restart(machine, patient())
        with shmclient.connect(machine.path) as shm, RawPeer(machine.path) as peer:
            asked = [pool.submit(call, "x") for call in (shm.stat, shm.exists)]
            wait_until(lambda: listeners(machine.path) >= 1 or asked[0].done())
            assert not shm.exists("y")
            hand_back(peer, (held.grant.region, held.descriptor))
            assert asked[0].result(30).generation == held.grant.generation
            assert asked[1].result(30)
        assert listeners(machine.path) == 0


def test_stat_that_waits_is_taken_over_and_answered(folder: Path) -> None:
    with line_of_hosts(folder / "h") as line:
        put(line.path, "x", b"1")
        with holding(line.path, "x") as (held,):
            line.close()
            program = "-c", f"{patient()}\nfrom shmhost.cli import main; main()"
            line.child = line._start(program=program)
            with RawPeer(line.path) as waiting, RawPeer(line.path) as peer:
                waiting.send(pack(m.Stat(2, "x")))
                wait_until(lambda: listeners(line.path) == 1)
                line.take_over(program=program)
                assert hand_back(peer, (held.grant.region, held.descriptor))[0].lease
                reply, _ = waiting.receive()
                assert isinstance(reply, m.Described)
                assert (reply.id, reply.info.name) == (2, "x")


async def test_async_get_many_gets_what_comes_back(machine: Machine, anyio_backend: str) -> None:
    put(machine.path, "x", b"1")
    put(machine.path, "y", b"2")
    with holding(machine.path, "x", "y") as both:
        restart(machine, patient())
        async with await shmclient.aio.connect(machine.path) as shm, anyio.create_task_group() as tasks:
            values: list[bytes] = []
            has_values = anyio.Event()

            async def get() -> None:
                values.extend([bytes(value) for value in await shm.get_many(["x", "y"])])
                has_values.set()

            tasks.start_soon(get)
            await anyio.to_thread.run_sync(wait_until, lambda: values or listeners(machine.path) == 1)
            with RawPeer(machine.path) as peer:
                for held in both:
                    hand_back(peer, (held.grant.region, held.descriptor))
                with anyio.fail_after(30):
                    await has_values.wait()
        assert values == [b"1", b"2"]


def test_name_that_does_not_come_back_is_refused_with_the_reason(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x"):
        machine.restart()
        with (
            shmclient.connect(machine.path) as shm,
            pytest.raises(RegionNotFound, match="handed it back yet"),
        ):
            shm.get("x")
        assert listeners(machine.path) == 0
        restart(machine, HURRIED)
        with (
            shmclient.connect(machine.path) as shm,
            pytest.raises(RegionNotFound, match="handed it back yet"),
        ):
            shm.open("x")


def test_name_that_nobody_had_is_refused_at_once(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x"):
        restart(machine, patient())
        with shmclient.connect(machine.path) as shm:
            with pytest.raises(RegionNotFound, match="no region 'y'"):
                shm.get("y")
            with pytest.raises(RegionNotFound, match="no region 'y'"):
                shm.get_many(["x", "y"])
            with pytest.raises(RegionNotFound, match="no region 'x/y'"):
                shm.get("x/y")


def test_other_user_hears_at_once_and_no_more_than_of_any_name(folder: Path) -> None:
    folder.chmod(0o755)
    machine = Machine(folder / "h.sock")
    machine.start()
    try:
        put(machine.path, "x", b"1", mode=0o600)
        with holding(machine.path, "x"):
            restart(machine, patient())
            Path(machine.path).chmod(0o666)

            def ask() -> None:
                with shmclient.connect(machine.path) as shm, pytest.raises(RegionNotFound, match="no region"):
                    shm.get("x")

            as_nobody(ask)
    finally:
        machine.kill()


def test_value_of_an_arena_is_awaited(machine: Machine) -> None:
    with shmclient.connect(machine.path) as owner, owner.arena("a", size=1 << 20) as arena:
        arena["v"] = b"1"
        machine.restart()
        with shmclient.connect(machine.path) as shm:
            assert bytes(shm.get("a/v")) == b"1"


def test_waits_that_nobody_asked_for_are_charged_and_end_in_a_refusal(machine: Machine) -> None:
    """A connection has 1024 at most: more are refused as what they are, names that are not here."""
    put(machine.path, "x", b"1")
    with holding(machine.path, "x"):
        machine.restart()
        with RawPeer(machine.path) as peer:
            names = ("x",) * MAX_DESCRIPTORS
            count = 1024 // MAX_DESCRIPTORS + 1
            for number in range(2, 2 + count):
                peer.send(pack(m.Open(number, names, (), False)))
            replies = [peer.receive()[0] for _ in range(count)]
        assert isinstance(replies[0], m.Refused)
        assert replies[0].id == count + 1
        assert {reply.code for reply in replies if isinstance(reply, m.Refused)} == {"not-found"}
        assert listeners(machine.path) == 0


def test_successor_is_patient_and_not_for_ever(folder: Path) -> None:
    with line_of_hosts(folder / "h") as line:
        put(line.path, "x", b"1")
        with holding(line.path, "x") as (held,):
            line.close()
            line.child = line._start(program=("-c", f"{patient()}\nfrom shmhost.cli import main; main()"))
            with RawPeer(line.path) as waiting:
                waiting.send(pack(m.Open(2, ("x",), (), False)))
                wait_until(lambda: listeners(line.path) == 1)
                line.take_over()
                reply, fds = waiting.receive()
                assert (isinstance(reply, m.Refused), fds) == (True, [])
                with RawPeer(line.path) as peer:
                    assert hand_back(peer, (held.grant.region, held.descriptor))[0].lease
