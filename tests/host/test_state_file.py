"""The state file: what a killed host leaves to its successor, and what a host does with a wrong file."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmhost.core import records, succession
from shmhost.core.accounts import Accounts
from shmhost.core.expected import Expected, Returned, is_of
from shmhost.core.generations import BLOCK, numbers
from shmhost.core.objects import SEALS, Memfd
from shmhost.core.peers import Peer
from shmhost.core.records import Record
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD, Registry
from shmhost.core.resources import Totals
from shmhost.core.window import STEP, Allocator, Span
from shmhost.machine.socket_file import Lock
from shmhost.machine.state_file import StateFile, open_state
from shmprotocol.errors import HostError, InvalidArgument, QuotaExceeded
from shmprotocol.native import builtins
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import Seal, State
from support import as_nobody

OWNER = Peer(7, 70, 4711)
BASE = 1 << 40


def new_registry(steps: int = 16) -> Registry:
    return Registry(
        Allocator(((BASE, steps * STEP),)),
        Accounts(Totals(1 << 30), {0, 7}),
        lambda: 5,
        lambda freed: freed.close(),
    )


def publish(registry: Registry, name: str, mode: int = 0o640) -> Region:
    """Publish a region as a session does, with a real object."""
    region = registry.create(m.Create(1, name, 100, "full", "memfd", mode, True), OWNER)
    region.object = Memfd(name, region.capacity)
    region.object.publish(b"", Seal.FULL)
    region.generation, region.size, region.kind = registry.next_generation(region), 100, 1
    registry.announce(region)
    registry.publish(region)
    return region


class Hosts:
    """One host after the other with the same file, each killed before the next one starts."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._files: list[StateFile] = []

    def start(self, steps: int = 16) -> tuple[Registry, Expected]:
        self.file = StateFile(self.path)
        self._files.append(self.file)
        registry = new_registry(steps)
        registry.numbers = numbers(self.file.first_number, self.file.store_number)
        registry.book = self.file
        expected = Expected(registry, self.file.forget, self.file.retire)
        expected.load(self.file.records)
        return registry, expected

    def close(self) -> None:
        for file in self._files:
            file.close(remove=False)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path / "h.sock.state")
    yield hosts
    hosts.close()


def identity(region: Region) -> records.Identity:
    assert region.object is not None
    return records.Identity._make(builtins.identify(region.object.reader()))


def test_region_of_a_killed_host_is_rebuilt_as_it_was(hosts: Hosts) -> None:
    registry, _ = hosts.start()
    before = publish(registry, "a/b")
    registry.chmod("a/b", 0o604, OWNER)
    after, expected = hosts.start()
    record = expected.find(before.number)
    assert record is not None
    assert is_of(record, Returned(identity(before), before.capacity, SEALS[Seal.FULL]))
    assert before.object is not None
    back = expected.revive(record, Memfd.of(before.capacity, os.dup(before.object.reader())))
    assert after.current["a/b"] is back
    assert back.info() == before.info()
    assert (back.rights, back.grant(3).address) == (before.rights, before.span.address)
    assert after.accounts.bytes.used == registry.accounts.bytes.used
    assert len(expected) == 0
    after.hide(back)
    assert (after.accounts.bytes.used, after.allocator.windows[0].free()) == (0, 16 * STEP)
    assert hosts.start()[1].find(before.number) is None


def test_nothing_is_noted_of_what_is_not_published(hosts: Hosts) -> None:
    registry, _ = hosts.start()
    registry.create(m.Create(1, "x", 100, "full", "memfd", 0o600, True), OWNER)
    assert len(hosts.start()[1]) == 0


def test_newer_of_two_generations_has_the_name_whoever_comes_first(hosts: Hosts) -> None:
    registry, _ = hosts.start()
    old = publish(registry, "x")
    registry.lease(old, OWNER)
    new = publish(registry, "x")
    for first, second in ((old, new), (new, old)):
        after, expected = hosts.start()
        states = []
        for region in (first, second):
            record = expected.find(region.number)
            assert record is not None
            assert region.object is not None
            back = expected.revive(record, Memfd.of(region.capacity, os.dup(region.object.reader())))
            after.lease(back, OWNER)
            states.append((back.number, back.state))
        assert sorted(states) == [(old.number, State.SUPERSEDED), (new.number, State.CURRENT)]
        assert after.current["x"].generation == new.generation


def test_generation_that_was_about_to_follow_takes_the_name_when_it_is_back(hosts: Hosts) -> None:
    """The host was killed between the two records: the older one is current unless the newer one is back."""
    registry, _ = hosts.start()
    old = publish(registry, "x")
    registry.lease(old, OWNER)
    new = registry.create(m.Create(1, "x", 100, "full", "memfd", 0o600, True), OWNER)
    new.object = Memfd("x", new.capacity)
    new.generation, new.kind = registry.next_generation(new), 1
    registry.announce(new)
    after, expected = hosts.start()
    names = []
    for region in (old, new):
        record = expected.find(region.number)
        assert record is not None
        assert region.object is not None
        back = expected.revive(record, Memfd.of(region.capacity, os.dup(region.object.reader())))
        after.lease(back, OWNER)
        names.append(after.current["x"].number)
    assert names == [old.number, new.number]


@pytest.mark.parametrize(("is_sent", "state"), [(False, State.CURRENT), (True, State.SUPERSEDED)])
def test_older_generation_has_lost_its_name_once_the_reply_has_left(
    is_sent: bool, state: State, hosts: Hosts
) -> None:
    """Killed between the reply and all else, a host has both as the current region of the name."""
    registry, _ = hosts.start()
    older, other = publish(registry, "a"), publish(registry, "b")
    near, far = socket.socketpair()
    with near, far:
        if not is_sent:
            far.close()
        with contextlib.suppress(BrokenPipeError):
            descriptors.send_now(near, b"reply", (), *records.note_of(hosts.file, older))
    for _ in range(2):
        hosts.start()
        states = {record.number: record.state for record in hosts.file.records}
        assert states == {older.number: state, other.number: State.CURRENT}


def test_name_is_free_for_others_and_does_not_come_back_to_an_older_region(hosts: Hosts) -> None:
    registry, _ = hosts.start()
    old = publish(registry, "x")
    after, expected = hosts.start()
    after.generations.resume(1000)
    assert expected.newest("x") is not None
    new = publish(after, "x")
    expected.give_way(new)
    assert expected.newest("x") is None
    _, later = hosts.start()  # killed again: it is known there, too
    record = later.find(old.number)
    assert record is not None
    assert record.state is State.SUPERSEDED


def test_unlinked_region_stays_unlinked(hosts: Hosts) -> None:
    registry, _ = hosts.start()
    region = publish(registry, "x")
    registry.lease(region, OWNER)
    registry.hide(region)
    after, expected = hosts.start()
    record = expected.find(region.number)
    assert record is not None
    assert region.object is not None
    back = expected.revive(record, Memfd.of(region.capacity, os.dup(region.object.reader())))
    assert (back.state, after.current, after.names) == (State.UNLINKED, {}, [])
    lease = after.lease(back, OWNER)
    after.release(back, lease)
    assert after.regions == {}


@pytest.mark.parametrize("wrong", ["device", "inode", "born_ns", "uid", "size", "seals"])
def test_other_object_is_not_the_one_of_a_record(wrong: str, hosts: Hosts) -> None:
    registry, _ = hosts.start()
    region = publish(registry, "x")
    record = hosts.start()[1].find(region.number)
    assert record is not None
    returned = Returned(record.identity, record.capacity, SEALS[Seal.FULL])
    assert is_of(record, returned)
    if wrong == "size":
        returned = returned._replace(size=returned.size + 4096)
    elif wrong == "seals":
        returned = returned._replace(seals=SEALS[Seal.WRITER])
    else:
        other = returned.identity._replace(**{wrong: getattr(record.identity, wrong) + 1})
        returned = returned._replace(identity=other)
    assert not is_of(record, returned)


def test_addresses_stay_taken_until_the_regions_are_given_up(hosts: Hosts) -> None:
    registry, _ = hosts.start(4)
    taken = [publish(registry, name).span for name in ("a", "b", "c")]
    after, expected = hosts.start(4)
    assert publish(after, "d").span not in taken
    with pytest.raises(QuotaExceeded):
        publish(after, "e")
    after.make_room = lambda: bool(expected.clear())
    assert publish(after, "e").span in taken
    assert len(hosts.start()[1]) == 2


def come_back(hosts: Hosts) -> tuple[Registry, Expected, Region]:
    """Return what a host has whose predecessor was killed: a region that is back, and the only one."""
    memory = publish(hosts.start()[0], "x").object
    assert memory is not None
    registry, expected = hosts.start()
    registry.expect_again = expected.expect_again
    (record,) = hosts.file.records
    back = expected.revive(record, Memfd.of(record.capacity, os.dup(memory.reader())))
    return registry, expected, back


def test_addresses_of_what_was_back_wait_until_it_is_given_up(hosts: Hosts) -> None:
    registry, expected, back = come_back(hosts)
    registry.hide(back)
    assert registry.accounts.bytes.used == 0  # the host has nothing of it any more
    assert registry.allocator.windows[0].free() == 15 * STEP
    (record,) = hosts.file.records
    assert expected.find(back.number) == record._replace(state=State.UNLINKED)
    assert hosts.start()[1].find(back.number) == expected.find(back.number)
    assert expected.clear() == []
    assert registry.allocator.windows[0].free() == 16 * STEP


def test_small_put_leaves_the_addresses_of_what_was_back(hosts: Hosts) -> None:
    """It gives what its elder has to its own region, which must not have come back."""
    registry, _, back = come_back(hosts)
    region = succession.begin(registry, back, "x", 0o640, True, 100, back.owner)
    assert region is not None
    succession.complete(registry, region, back)
    assert back.number not in registry.regions
    assert registry.allocator.windows[0].free() == 14 * STEP
    assert registry.accounts.bytes.used == region.capacity + REGION_OVERHEAD


def test_no_number_of_a_region_comes_twice(hosts: Hosts) -> None:
    seen = []
    for _ in range(3):
        registry, _ = hosts.start()
        seen += [next(registry.numbers) for _ in range(BLOCK + 10)]
    assert len(set(seen)) == len(seen)


def test_file_grows_with_its_records_and_uses_them_again(hosts: Hosts) -> None:
    registry, _ = hosts.start(1)
    region = publish(registry, "x")
    offsets = set()
    for _ in range(3000):
        hosts.file.enter(region)
        offsets.add(region.record)
    assert len(offsets) == 3000
    size = os.path.getsize(hosts.path)
    for offset in offsets:
        hosts.file.forget(offset)
    for _ in range(3000):
        hosts.file.enter(region)
    assert os.path.getsize(hosts.path) == size


@given(st.binary(min_size=records.SIZE, max_size=records.SIZE))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    try:
        record = records.read(data, 4096)
    except InvalidArgument:
        return
    assert record is None or isinstance(record, Record)


def test_record_is_what_was_written(hosts: Hosts) -> None:
    registry, _ = hosts.start()
    region = publish(registry, "n" * 255)
    data = Path(hosts.path).read_bytes()[region.record : region.record + records.SIZE]
    record = records.read(data, region.record)
    assert record is not None
    assert (record.name, record.number, record.span) == ("n" * 255, region.number, Span(*region.span))
    assert (record.owner, record.identity) == (OWNER, identity(region))
    for size in range(records.SIZE - 8, 8, -8):  # damaged anywhere: refused, or another record, and no fault
        with_zeros = data[:size] + bytes(8) + data[size + 8 :]
        with contextlib.suppress(InvalidArgument):
            records.read(with_zeros, 0)


def test_damaged_record_is_forgotten_and_the_others_stay(hosts: Hosts) -> None:
    registry, _ = hosts.start()
    wrong, right = publish(registry, "wrong"), publish(registry, "right")
    with open(hosts.path, "r+b") as file:
        file.seek(wrong.record + 32)
        file.write(b"\xff" * 64)
    _, expected = hosts.start()
    assert expected.find(right.number) is not None
    assert len(expected) == 1


@pytest.mark.parametrize("content", [b"", b"shmstate", b"x" * 70_000, b"shmstate" + bytes(70_000)])
def test_file_that_no_host_wrote_is_begun_anew(content: bytes, hosts: Hosts) -> None:
    Path(hosts.path).write_bytes(content)
    os.chmod(hosts.path, 0o600)
    registry, expected = hosts.start()
    assert len(expected) == 0
    region = publish(registry, "x")
    assert hosts.start()[1].find(region.number) is not None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_file_that_others_can_open_is_not_used(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.touch(0o600)
    path.chmod(mode)
    with pytest.raises(HostError, match="open to others"):
        StateFile(str(path))


def test_file_of_another_user_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.touch(0o600)
    os.chown(path, 65534, 65534)
    with pytest.raises(HostError, match="belongs to uid 65534"):
        StateFile(str(path))


def test_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        StateFile(str(path))
    assert not (tmp_path / "other").exists()


def test_host_without_the_lock_or_without_a_file_does_without(tmp_path: Path) -> None:
    lock = Lock(str(tmp_path / "h.sock"), "")
    assert open_state(str(tmp_path / "state"), lock) is None
    lock.take()
    try:
        assert open_state(str(tmp_path / "none" / "state"), lock) is None
        state = open_state(str(tmp_path / "state"), lock)
        assert state is not None
        state.close(remove=True)
        assert not (tmp_path / "state").exists()
    finally:
        lock.release()


def test_file_of_a_root_host_is_closed_to_others(hosts: Hosts) -> None:
    hosts.start()
    os.chmod(os.path.dirname(hosts.path), 0o777)

    def look() -> None:
        with pytest.raises(PermissionError):
            os.open(hosts.path, os.O_RDONLY)

    assert as_nobody(look) == 0
