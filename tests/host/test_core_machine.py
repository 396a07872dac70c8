"""Any sequence of requests, deaths and late system calls leaves the core of a host in order."""

from __future__ import annotations

import os
import random
import tempfile
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core_machine import Client, Control, Model
from shmhost.serving.workers import attempt
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ARENA_GROW, ARENA_LEAVE, ARENA_READY
from support import count_descriptors

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
NAMES = st.sampled_from(["a", "c", "c/d", "b"])
NUMBERS = st.integers(0, 6)
SIZES = st.sampled_from([1, 9000, 100, 30 * 4096, 4096, 3 << 20, 1 << 40])
MODES = st.sampled_from([0o600, 0o666])
ARENAS = st.sampled_from([8192, 3 * 4096, 1 << 21])


def pick(choices: list[Any], number: int) -> Any:
    return choices[number % len(choices)] if choices else number


class CoreMachine(RuleBasedStateMachine):
    """Clients of three users, one of them root, and the threads that do their Work."""

    def __init__(self) -> None:
        super().__init__()
        self._descriptors = count_descriptors()
        self._folder = tempfile.TemporaryDirectory()
        self._model = Model(self._folder.name)
        for uid in (7, 7, 8, 0):
            self._model.connect(uid)

    def _client(self, number: int) -> Client | None:
        """Return a client that waits for nothing; what it is sent arrives unless it is deaf."""
        idle = [client for client in self._model.clients if client.steps is None and not client.is_dead]
        return pick(idle, number) if idle else None

    @property
    def _busy(self) -> list[Client]:
        return [client for client in self._model.clients if client.steps is not None]

    def _say(self, number: int, message: m.Message, *, by_bytes: bool = False) -> None:
        client = self._client(number)
        if client is not None:
            (client.say_bytes if by_bytes else client.say)(message)

    def _own(self, number: int, index: int) -> int:
        """Return a region that a client is creating, or a spare; or a number of another or of none."""
        client = self._client(number)
        if client is None or index == 0:
            return index
        return pick([own for own in client.creating if self._model.is_unpublished(own)], index)

    @precondition(lambda self: len(self._model.clients) < 5)
    @rule(uid=st.sampled_from([0, 7, 8]))
    def connect(self, uid: int) -> None:
        self._model.connect(uid)

    @rule(who=NUMBERS, name=NAMES, size=SIZES, mode=MODES, replace=st.booleans(), seal=st.booleans())
    def create(self, who: int, name: str, size: int, mode: int, replace: bool, seal: bool) -> None:
        kind = "full" if seal else "writer"
        self._say(who, m.Create(1, name, size, kind, "memfd", mode, replace))

    @rule(who=NUMBERS, which=NUMBERS, spares=st.lists(SIZES, max_size=3))
    def publish(self, who: int, which: int, spares: list[int]) -> None:
        self._say(who, m.Publish(2, self._own(who, which), 1, 1, 0, 0, 0, 0, tuple(spares)))

    @rule(who=NUMBERS, which=NUMBERS, is_mapped=st.booleans())
    def abort(self, who: int, which: int, is_mapped: bool) -> None:
        self._say(who, m.Abort(3, self._own(who, which), is_mapped))

    @rule(who=NUMBERS, which=NUMBERS, name=NAMES, mode=MODES, spares=st.lists(SIZES, max_size=2))
    def assign(self, who: int, which: int, name: str, mode: int, spares: list[int]) -> None:
        request = m.Assign(4, self._own(who, which), name, mode, True, 100, 100, 0, 0, tuple(spares))
        self._say(who, request, by_bytes=True)

    @rule(who=NUMBERS, size=SIZES)
    def reserve(self, who: int, size: int) -> None:
        self._say(who, m.Reserve(5, size))

    @rule(who=NUMBERS, name=NAMES, mode=MODES, size=st.sampled_from([1, 5000]), by_bytes=st.booleans())
    def put(self, who: int, name: str, mode: int, size: int, by_bytes: bool) -> None:
        self._say(
            who, m.Put(6, name, mode, True, min(size, 9000), 0, 0, bytes(min(size, 9000))), by_bytes=by_bytes
        )

    @rule(
        who=NUMBERS, names=st.lists(NAMES, min_size=1, max_size=3), wait=st.booleans(), by_bytes=st.booleans()
    )
    def open(self, who: int, names: list[str], wait: bool, by_bytes: bool) -> None:
        self._say(who, m.Open(7, tuple(names), (), wait), by_bytes=by_bytes)

    @rule(who=NUMBERS, name=NAMES, which=NUMBERS)
    def open_what_is_held(self, who: int, name: str, which: int) -> None:
        client = self._client(who)
        if client is not None and client.leases:
            client.say(m.Open(8, (name,), (pick(list(client.leases.values()), which)[0],), False))

    @rule(who=NUMBERS, which=NUMBERS, by_bytes=st.booleans())
    def release(self, who: int, which: int, by_bytes: bool) -> None:
        client = self._client(who)
        if client is not None and client.leases:
            self._say(who, m.Release(0, (pick(list(client.leases), which),)), by_bytes=False)

    @rule(who=NUMBERS)
    def release_all(self, who: int) -> None:
        client = self._client(who)
        if client is not None and client.leases:
            client.say(m.Release(0, tuple(client.leases)))

    @rule(who=NUMBERS, name=NAMES)
    def unlink(self, who: int, name: str) -> None:
        self._say(who, m.Unlink(9, name))

    @rule(who=NUMBERS, name=NAMES, mode=MODES)
    def chmod(self, who: int, name: str, mode: int) -> None:
        self._say(who, m.Chmod(10, name, mode))

    @rule(who=NUMBERS, id_=st.integers(20, 22))
    def watch(self, who: int, id_: int) -> None:
        self._say(who, m.Watch(id_, ""))

    @rule(who=NUMBERS, id_=st.sampled_from([7, 20, 21, 22]))
    def cancel(self, who: int, id_: int) -> None:
        self._say(who, m.Cancel(11, id_))

    @rule(who=NUMBERS)
    def look(self, who: int) -> None:
        for message in (m.List(12, "", ""), m.Inspect(13, "", 0), m.Measure(14), m.Stat(15, "a")):
            self._say(who, message)

    # --- arenas

    @rule(who=NUMBERS, name=NAMES, size=ARENAS, room=ARENAS, mode=MODES, keep=st.booleans())
    def arena(self, who: int, name: str, size: int, room: int, mode: int, keep: bool) -> None:
        self._say(who, m.Arena(16, name, size, size + room, mode, True, keep))

    @rule(who=NUMBERS, reader=NUMBERS, name=NAMES, is_deaf=st.booleans())
    def arena_that_is_read(self, who: int, reader: int, name: str, is_deaf: bool) -> None:
        """What it takes for a client to join: rare in itself."""
        count = len(self._model.controls)
        self._say(who, m.Arena(16, name, 8192, 16384, 0o666, True, True))
        controls = list(self._model.controls.values())
        if len(controls) > count and controls[-1].is_open:
            self._finish(controls[-1], ARENA_READY, 0)
        client = self._client(reader)
        if client is not None:
            client.is_deaf = is_deaf
            client.say(m.Open(7, (name,), (), False))

    @rule(who=NUMBERS, which=NUMBERS)
    def attend(self, who: int, which: int) -> None:
        client = self._client(who)
        if client is not None and client.leases:
            client.say(m.Attend(17, pick(list(client.leases.values()), which)[0]))

    @rule(
        which=NUMBERS, kind=st.sampled_from([ARENA_READY, ARENA_READY, ARENA_GROW, ARENA_LEAVE]), size=ARENAS
    )
    def talk_as_owner(self, which: int, kind: int, size: int) -> None:
        controls = self._model.open_controls()
        if controls:
            self._finish(pick(controls, which), kind, size)

    def _finish(self, control: Control, kind: int, size: int) -> None:
        if kind == ARENA_LEAVE:  # it writes no more, whichever board it looks at
            self._model.unheard.pop(control.owner.number, None)
            self._model.owners.leave(control.owner.number)
        steps, outcome = control.owner.handle(kind, size), (None, None)
        try:
            while True:
                result, error = outcome
                work = steps.send(result) if error is None else steps.throw(error)
                outcome = attempt(work.call)
        except StopIteration:
            pass
        except RemoteProtocolError:
            control.close()

    @rule(which=NUMBERS, is_full=st.booleans())
    def owner_reads(self, which: int, is_full: bool) -> None:
        controls = self._model.open_controls()
        if controls:
            control = pick(controls, which)
            control.read()
            control.is_full = is_full

    @rule(which=NUMBERS, is_by_owner=st.booleans())
    def owner_leaves(self, which: int, is_by_owner: bool) -> None:
        controls = self._model.open_controls()
        if controls:
            pick(controls, which).close(is_by_owner=is_by_owner)

    # --- threads, scarcity, deaths

    @precondition(lambda self: self._busy)
    @rule(which=NUMBERS)
    def work(self, which: int) -> None:
        pick(self._busy, which).work()

    @precondition(lambda self: self._busy)
    @rule(which=NUMBERS)
    def die_at_work(self, which: int) -> None:
        pick(self._busy, which).begin_work()
        pick(self._busy, which).die()

    @rule(who=NUMBERS, is_deaf=st.booleans())
    def go_deaf(self, who: int, is_deaf: bool) -> None:
        client = self._client(who)
        if client is not None:
            client.is_deaf = is_deaf

    @rule()
    def recall(self) -> None:
        self._model.recall()

    @precondition(lambda self: len(self._model.clients) > 2)
    @rule(which=NUMBERS)
    def die(self, which: int) -> None:
        living = [client for client in self._model.clients if not client.is_dead]
        if living:
            pick(living, which).die()

    @precondition(lambda self: len(self._model.clients) > 2)
    @rule(which=NUMBERS)
    def be_dropped(self, which: int) -> None:
        client = self._client(which)
        if client is not None:
            self._model.drop(client)

    @precondition(lambda self: self._model.lingering)
    @rule()
    def end_what_was_dropped(self) -> None:
        self._model.forget()

    @rule(which=NUMBERS)
    def restart(self, which: int) -> None:
        """The host is killed; its successor gets back what clients hand to it."""
        self._model.restart(which)

    @rule(who=NUMBERS, which=NUMBERS)
    def come_late(self, who: int, which: int) -> None:
        """A client hands back a region that it did not hand back at once."""
        self._model.late.come(who, which)

    @rule(which=NUMBERS)
    def owner_looks(self, which: int) -> None:
        """The owner of an arena that was handed back looks at the board of the host that serves."""
        self._model.owners_look(which)

    @rule()
    def host_looks_who_is_gone(self) -> None:
        self._model.look_who_is_gone()

    @rule()
    def give_up_what_is_expected(self) -> None:
        self._model.owners.give_up()

    @invariant()
    def all_is_in_order(self) -> None:
        self._model.check()

    def teardown(self) -> None:
        """Let all end: nothing is left, no descriptor either."""
        self._model.end()
        self._model.close()
        self._folder.cleanup()
        assert count_descriptors() == self._descriptors


TestCoreMachine = CoreMachine.TestCase
TestCoreMachine.settings = settings(
    max_examples=5000 if IS_LONG else 20, stateful_step_count=50, deadline=None
)


# --- the same for longer: hypothesis takes some 30 steps, and few of them get far

CHOICES: dict[str, list[Any]] = {
    "uid": [0, 7, 8],
    "name": ["a", "c", "c/d", "b"],
    "size": [1, 100, 4096, 9000, 8192, 30 * 4096, 3 << 20, 1 << 21, 1 << 40],
    "room": [8192, 3 * 4096, 1 << 21],
    "mode": [0o600, 0o666],
    "id_": [7, 20, 21, 22],
    "kind": [ARENA_READY, ARENA_READY, ARENA_GROW, ARENA_LEAVE],
    "spares": [[], [100], [9000, 100], [1 << 40]],
    "names": [["a"], ["b", "a"], ["c"], ["c/d"], ["c", "a", "b"]],
}
RARE = {"die", "be_dropped", "release_all", "recall", "owner_leaves", "restart", "give_up_what_is_expected"}
OFTEN = {"open", "put", "publish", "create", "talk_as_owner", "arena_that_is_read", "work"}
ACTIONS = [
    name
    for name, method in vars(CoreMachine).items()
    if callable(method) and hasattr(method, "hypothesis_stateful_rule")
    for _ in range(1 if name in RARE else 8 if name in OFTEN else 4)
]


def step(machine: CoreMachine, choose: random.Random) -> None:
    """Do anything that the state of a machine allows."""
    method = getattr(CoreMachine, choose.choice(ACTIONS))
    rule_ = method.hypothesis_stateful_rule
    if not all(is_allowed(machine) for is_allowed in rule_.preconditions):
        return
    arguments = {}
    for name in rule_.arguments:
        arguments[name] = choose.choice(
            CHOICES.get(name, range(7) if name in ("who", "which", "reader") else [False, True])
        )
    rule_.function(machine, **arguments)
    machine._model.check()


@pytest.mark.parametrize("seed", range(200 if IS_LONG else 4))
def test_core_is_in_order_after_each_of_many_steps(seed: int) -> None:
    choose = random.Random(seed)
    machine = CoreMachine()
    for _ in range(2000):
        step(machine, choose)
    machine.teardown()
