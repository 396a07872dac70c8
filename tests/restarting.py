"""Hosts that are killed while a client changes something, and what their successors must have then."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import shmclient
from nursery import Nursery
from seizing import Seized
from shmhost.core import records
from shmprotocol.abi.header import FLAG_GROWS
from shmprotocol.errors import RegionNotFound
from shmprotocol.wire.query import Query
from stores import Script
from support import wait_until
from telling import Known, Teller, Value

STEPPED_S = 300.0  # for an answer of a host that is single-stepped, on a machine that is busy
HEARD = "heard"  # a name that a bystander holds all the time
FIRST = 4096  # where the records of a state file begin
QUIET = 10  # times that the counts are the same before they count
KINDS = ("anon_inode", "pipe")  # of descriptors that come and go


class Killer:
    """Kills a host where a script says, or at the end of the block, and starts the next one.

    `check` is called between the two. With `starts` the host that is killed is one that starts.
    """

    def __init__(
        self,
        hosts: Nursery,
        script: Script,
        check: Callable[[], object],
        *,
        main_only: bool = False,
        starts: bool = False,
    ) -> None:
        self.was_there = False  # where the script says
        self.calls = 0
        self._hosts = hosts
        self._script = script
        self._check = check
        self._main_only = main_only
        self._starts = starts
        self._process = -1  # the pidfd of the one to be killed
        self._is_seized = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            if self._starts:
                self._hosts.begin(is_held=True)
            self._process = os.pidfd_open(self._hosts.pid)
            host = Seized(self._hosts.pid, main_only=self._main_only)
            if self._starts:
                os.kill(host.pid, signal.SIGUSR1)
            self._is_seized.set()
            self.was_there = self._script(host)
            self.calls = host.calls
            host.kill()
            self._check()
            self._hosts.start()
        except BaseException as error:
            self._error = error
        finally:
            self._is_seized.set()

    def wait(self) -> None:
        """Return when the next host is there."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Killer:
        self._thread.start()
        self._is_seized.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            os.close(self._process)
        self.wait()

    def await_listening(self) -> None:
        """Return when the host that starts listens, or the next one, as it was killed."""
        while self._thread.is_alive() and not self._hosts.is_listening():
            self._thread.join(0.01)


def check_file(path: str) -> None:
    """Check that each record of a killed host is whole, and none stands in another's way.

    The others are cleared: a part of a record is not whole because its place had a similar one before.
    """
    there = []
    with open(path, "r+b") as file:
        data = file.read()
        for offset in range(FIRST, len(data), records.SIZE):
            record = records.read(data[offset : offset + records.SIZE], offset)
            if record is not None:
                there.append(record)
            else:
                file.seek(offset)
                file.write(bytes(records.SIZE))
    numbers = [record.number for record in there]
    assert len(numbers) == len(set(numbers)), numbers
    spans = sorted(record.span for record in there)
    for first, second in itertools.pairwise(spans):
        assert first.address + first.size <= second.address, spans


@dataclasses.dataclass
class Scene:
    """Hosts at one socket, and a bystander that holds a name. `before` is what is counted without others."""

    hosts: Nursery
    bystander: shmclient.Client
    heard: Any
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    back_s: list[float] = dataclasses.field(default_factory=list)
    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    requests: int = 0
    failures: int = 0  # of requests, each under way when a host was killed

    def counts(self) -> dict[str, Any]:
        """Return what must be as before when clients are gone."""
        with Query(self.hosts.path) as query:
            measured = query.measure()
            regions = sorted(
                (each.info.name, each.info.state, each.info.leases) for each in query.inspect("")
            )
        return {
            "used": measured.used,
            "regions": regions,
            "clients": measured.clients,
            "ledgers": measured.ledgers,
            "accounts": measured.accounts,
            "descriptors": self._descriptors(),
            "files": self._files(),
        }

    def rest(self) -> dict[str, Any]:
        """Return the counts when nothing changes any more: connections that have just ended are closed."""
        some = [self.counts()]
        while len(some) < QUIET or any(counts != some[-1] for counts in some[-QUIET:]):
            time.sleep(0.01)
            some.append(self.counts())
        return some[-1]

    def _files(self) -> list[str]:
        """Return the names of the host in /dev/shm."""
        lock = os.stat(f"{self.hosts.path}.lock")
        prefix = f"shmhost-{lock.st_dev:x}-{lock.st_ino:x}"
        return [name for name in os.listdir("/dev/shm") if re.split(r"\.|-new", name)[0] == prefix]

    def _descriptors(self) -> list[str]:
        folder, kinds = f"/proc/{self.hosts.pid}/fd", []
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                kinds.append(os.readlink(f"{folder}/{name}").split(":")[0])
        return sorted(kind for kind in kinds if kind not in KINDS)

    def wait_for_heard(self) -> None:
        """Return when the bystander's name is there, and note how long after the host that was."""
        wait_until(lambda: _is_there(self.hosts.path, HEARD))
        self.back_s.append(time.monotonic() - self.hosts.listened_s)

    def check_bystander(self) -> None:
        """Check that the bystander has its name, which is what it was."""
        self.wait_for_heard()
        info = self.bystander.stat(HEARD)
        assert (info.number, info.generation, info.mode) == (self.heard.number, self.heard.generation, 0o640)
        assert bytes(self.bystander.get(HEARD)) == b"h" * 1000

    def check_names(self, teller: Teller) -> None:
        """Check that each name has its old value or the new one, and that the next one can follow."""
        with Query(self.hosts.path) as query, shmclient.connect(self.hosts.path, timeout=STEPPED_S) as other:
            for name, entry in teller.names.items():
                self._check_name(name, entry, query, other)
            current = [each.info.name for each in query.inspect("") if each.info.state == "current"]
            assert len(current) == len(set(current)), current
            for name, (_, values) in teller.arenas.items():
                with contextlib.suppress(RegionNotFound):
                    assert bytes(other.get(f"{name}/a")) in values

    def _check_name(self, name: str, entry: Known, query: Query, other: shmclient.Client) -> None:
        possible = [entry.sure, *entry.maybe]
        if entry.sure is not None and entry.is_held and None not in possible:
            wait_until(lambda: other.exists(name), shown=lambda: (name, entry))
        try:
            info = query.stat(name)
            region = other.open(name)
        except RegionNotFound:
            assert None in possible or not entry.is_held, (name, entry)
            return
        with region:
            there = _value_of(other, region, info.mode)
        assert there in possible, (name, entry, there)
        if there == entry.sure:
            assert info.generation == entry.generation, (name, entry, info)
        else:
            assert info.generation >= entry.generation, (name, entry, info)
        entry.generation = info.generation

    def check_nothing_is_left(self) -> None:
        """Check that all is as before."""
        wait_until(lambda: self.counts() == self.before, shown=lambda: (self.before, self.counts()))


def _value_of(shm: shmclient.Client, region: Any, mode: int) -> Value:
    data = bytes(region.data)
    value = region.value()
    if isinstance(value, bytes | memoryview):
        assert len(set(data)) == 1, data[:100]
        can_grow = region._grant.flags & FLAG_GROWS
        return Value(data[0], 0 if can_grow else len(data), mode)
    return Value(bytes(value["a"])[0], 0, mode)


def _is_there(path: str, name: str) -> bool:
    with contextlib.suppress(RegionNotFound), Query(path) as query:
        query.stat(name)
        return True
    return False


@contextlib.contextmanager
def scene_of(hosts: Nursery) -> Iterator[Scene]:
    """Give a scene whose host has been killed once, as all that follow."""
    hosts.start()
    with shmclient.connect(hosts.path, timeout=STEPPED_S) as bystander:
        bystander.put(HEARD, b"h" * 1000, mode=0o640).close()
        with bystander.open(HEARD) as heard:
            hosts.kill()
            hosts.start()
            scene = Scene(hosts, bystander, heard)
            wait_until(lambda: _is_there(hosts.path, HEARD))
            bystander.list()
            scene.before = scene.rest()
            yield scene


def kill(
    scene: Scene, operation: Callable[[Teller], object], script: Script, *, main_only: bool = False
) -> Killer:
    """Kill the host where a script says, in the middle of an operation, and check what is there then."""
    hosts = scene.hosts
    with shmclient.connect(hosts.path, timeout=STEPPED_S) as shm:
        with Killer(hosts, script, lambda: check_file(f"{hosts.path}.state"), main_only=main_only) as killer:
            teller = Teller(shm, killer.wait)
            operation(teller)
        scene.kills[operation.__name__] += killer.was_there
        scene.requests += teller.requests
        scene.failures += len(teller.failures)
        assert len(teller.failures) <= 1, teller.failures
        scene.check_bystander()
        scene.check_names(teller)
        teller.check_held()
        go_on(teller)
        teller.close()
    scene.check_nothing_is_left()
    return killer


def kill_starting(scene: Scene, script: Script, *, main_only: bool = False) -> Killer:
    """Kill a host where a script says, while it starts, and check what the next one has."""
    scene.hosts.kill()
    with Killer(scene.hosts, script, lambda: None, main_only=main_only, starts=True) as killer:
        killer.await_listening()
    scene.kills["start"] += killer.was_there
    scene.check_bystander()
    scene.check_nothing_is_left()
    return killer


def go_on(teller: Teller) -> None:
    """Let the client put once more under each name, and unlink it."""
    failures = len(teller.failures)
    for name in list(teller.names):
        teller.put(name, 10)
        teller.unlink(name)
    for name, (arena, _) in teller.arenas.items():
        teller.put_in(name)
        arena.close()
        with contextlib.suppress(RegionNotFound):  # it has gone with its host
            teller.shm.unlink(name)
    assert len(teller.failures) == failures, teller.failures
