"""Arenas, ledgers and leases that are handed back at the limits of their user, and beside another one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from core_clients import Client, Held
from core_machine import Model
from shmhost.core.policy import LimitRule, People, Policy
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import ARENA_READY, LEDGER_SIZE, NOT_NOW

SIZE = 16384  # of an arena
ONE, OTHER = 7, 8  # uids


class Limited(Model):
    """A host whose next one has limits for one user."""

    def __init__(self, folder: str) -> None:
        self.limits: dict[str, int] = {}
        super().__init__(folder)

    def _start(self) -> None:
        super()._start()
        rule = LimitRule("a test", People(frozenset((ONE,)), frozenset()), self.limits)
        self.registry.accounts.restrict(Policy(limits=[rule]))

    def make(self, uid: int, *names: str) -> Client:
        """Have a client own arenas."""
        self.connect(uid)
        client = self.clients[-1]
        for name in names:
            client.say(m.Arena(2, name, SIZE, 0, 0o666, True, True))
            control = self.open_controls()[-1]
            for work in control.owner.handle(ARENA_READY, 0):
                work.call()
        return client

    def kill(self, **limits: int) -> list[tuple[Client, Held]]:
        """Kill the host, and start one with limits; return what clients have, who are connected again."""
        held = [(client, self._held(client)) for client in self.clients]
        self._kill()
        self.limits = limits
        self._start()
        for number, (client, things) in enumerate(held):
            self._connect_again(client.session.peer.uid, client.pid)
            held[number] = self.clients[-1], things
        return held

    def used(self, uid: int, name: str) -> int:
        return int(getattr(self.registry.accounts.of(uid), name).used)


@pytest.fixture
def model() -> Iterator[Limited]:
    with tempfile.TemporaryDirectory() as folder:
        model = Limited(folder)
        yield model
        model.end()
        model.close()


def close(held: list[tuple[Client, Held]]) -> None:
    for _, things in held:
        regions = [fd for _, fd in things.regions.values()]
        close_all([*regions, *things.ledgers.values(), *things.arenas.values()])


def restore_arenas(client: Client, things: Held) -> list[bool]:
    """Hand arenas back as their owner; return whether each is back."""
    arenas = client.session._ownerships._owned
    for number, fd in things.arenas.items():
        client.session.handle(m.RestoreArena(1, number), [fd])
    return [number in arenas for number in things.arenas]


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("name", ["bytes", "arenas"])
def test_arena_is_back_whatever_the_limits_are_and_counts(name: str, missing: int, model: Limited) -> None:
    """It is in use: only what is new is refused."""
    model.make(ONE, "a")
    model.make(OTHER, "b")
    whole = {"bytes": SIZE + REGION_OVERHEAD, "arenas": 1}[name]
    held = model.kill(**{name: whole - missing})
    assert [restore_arenas(*each) for each in held] == [[True], [True]]
    assert (model.used(ONE, name), model.used(OTHER, name)) == (whole, whole)
    model.check()
    client = held[0][0]
    count = len(model.registry.arenas)
    client.say(m.Arena(2, "new", SIZE, 0, 0o666, True, True))
    assert len(model.registry.arenas) == count  # refused
    held[1][0].say(m.Arena(2, "other", SIZE, 0, 0o666, True, True))
    assert len(model.registry.arenas) == count + 1
    close(held)


@pytest.mark.parametrize(("lines", "are_back"), [(2, [True, True]), (1, [True, False]), (0, [False, False])])
def test_arena_without_a_line_stays_expected_until_there_is_one(
    lines: int, are_back: list[bool], model: Limited
) -> None:
    model.make(ONE, "a", "b")
    model.make(OTHER, "c")
    held = model.kill(lines=lines)
    assert restore_arenas(*held[0]) == are_back
    assert restore_arenas(*held[1]) == [True]
    assert model.used(ONE, "lines") == sum(are_back)
    for number, is_back in zip(held[0][1].arenas, are_back, strict=True):
        assert (model.expected.find(number) is None) is is_back  # else its addresses are taken
    model.check()
    model.limits = {}
    for account in model.registry.accounts:
        account.restrict({})
    assert restore_arenas(*held[0]) == [True, True]
    model.check()
    close(held)


@pytest.mark.parametrize("missing", [0, 1])
def test_ledger_is_back_within_the_bytes_of_its_user(missing: int, model: Limited) -> None:
    model.make(0, "a")
    for uid in (ONE, OTHER):
        model.connect(uid)
        model.clients[-1].say(m.Open(3, ("a",), (), False))
    held = model.kill(bytes=LEDGER_SIZE + REGION_OVERHEAD - missing)
    ledgers = []
    for client, things in held[1:]:
        ((number, fd),) = things.ledgers.items()
        client.session.handle(m.RestoreLedger(1, number, False), [fd])
        ledgers.append(number)
    assert [number in model.hub.ledgers for number in ledgers] == [not missing, True]
    assert (model.absent.find(ledgers[0]) is None) is not missing
    model.check()
    close(held)


@pytest.mark.parametrize(("leases", "flags"), [(2, [0, 0]), (1, [0, NOT_NOW]), (0, [NOT_NOW, NOT_NOW])])
def test_regions_are_back_within_the_leases_of_their_user(
    leases: int, flags: list[int], model: Limited
) -> None:
    for uid in (ONE, OTHER):
        model.connect(uid)
        for name in ("x", "y"):
            model.clients[-1].say(m.Put(3, f"{uid}/{name}", 0o600, True, 1, 0, 0, b"1"))
    held = model.kill(leases=leases)
    for client, things in held:
        fds = [os.dup(fd) for _, fd in things.regions.values()]
        replies: list[m.Message] = []
        client.session._leases._send = lambda reply, *_, replies=replies: replies.append(reply)  # type: ignore
        client.session.handle(m.Restore(1, tuple(things.regions)), fds)
        close_all(fds)
        (reply,) = replies
        assert isinstance(reply, m.Restored)
        is_one = client.session.peer.uid == ONE
        assert [bool(grant.lease) for grant in reply.grants] == [not flag for flag in flags] or not is_one
        assert [grant.flags for grant in reply.grants if not grant.lease] == (
            [f for f in flags if f] if is_one else []
        )
        client.leases |= {grant.lease: (grant.region, grant.address) for grant in reply.grants if grant.lease}
    assert model.used(ONE, "leases") == leases
    assert model.used(OTHER, "leases") == 2
    model.check()
    close(held)
