"""The leases of one client: granted all or none, taken back when their reply cannot be sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from test_registry import World

from shmhost.core.leases import MANY, MAX_RELEASED, Leases
from shmhost.core.objects import Memfd
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.work import PAUSE, run_to_end
from shmprotocol.errors import QuotaExceeded, RegionNotFound, RemoteProtocolError
from shmprotocol.wire import messages as m

READER = Peer(8, 80)


class Holder:
    """A client's leases, and what it was sent."""

    def __init__(self) -> None:
        self.world = World()
        self.sent: list[tuple[m.Message, Sequence[int]]] = []
        self.error: OSError | None = None
        self.leases = Leases(self.world.registry, READER, self.send)

    def send(self, message: m.Message, descriptors: Sequence[int]) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((message, descriptors))

    def region(self, name: str, mode: int = 0o644) -> Region:
        region = self.world.publish(name)
        region.mode, region.object = mode, Memfd(name, region.capacity)
        return region

    def open(self, *regions: Region, held: tuple[int, ...] = ()) -> tuple[m.Grant, ...]:
        names = tuple(region.name for region in regions)
        self.leases.open(m.Open(1, names, held, False), regions)
        opened = self.sent[-1][0]
        assert isinstance(opened, m.Opened)
        return opened.grants


@pytest.fixture
def holder() -> Iterator[Holder]:
    holder = Holder()
    yield holder
    holder.world.registry.close()
    for memory_object in holder.world.freed:
        memory_object.close()


def test_each_grant_has_a_lease_and_a_descriptor_but_for_what_is_held(holder: Holder) -> None:
    a, b = holder.region("a"), holder.region("b")
    grants = holder.open(a, b, held=(0, b.number))
    assert [bool(grant.lease) for grant in grants] == [True, False]
    assert len(holder.sent[-1][1]) == 1
    assert (len(a.leases), len(b.leases)) == (1, 0)


def test_one_region_that_is_not_allowed_refuses_all(holder: Holder) -> None:
    a, secret = holder.region("a"), holder.region("secret", mode=0o600)
    with pytest.raises(RegionNotFound, match="'secret'"):
        holder.open(a, secret)
    assert (len(a.leases), holder.sent) == (0, [])


def test_limit_is_that_of_all_leases_and_refuses_all(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmhost.core.leases.MAX_LEASES", 3)
    a = holder.region("a")
    holder.open(a, a)
    with pytest.raises(QuotaExceeded, match="this one has 2"):
        holder.open(a, a)
    assert len(a.leases) == 2
    holder.open(a)


def test_leases_go_back_when_their_reply_cannot_be_sent(holder: Holder) -> None:
    a, b = holder.region("a"), holder.region("b")
    leases = holder.open(a)
    holder.error = OSError(24, "Too many open files")
    with pytest.raises(OSError, match="Too many"):
        holder.open(a, b, held=(a.number, 0))
    assert (list(a.leases), len(b.leases)) == ([leases[0].lease], 0)


def test_lease_of_another_client_cannot_be_given_back(holder: Holder) -> None:
    a = holder.region("a")
    [grant] = holder.open(a)
    other = Leases(holder.world.registry, READER, holder.send)
    with pytest.raises(RemoteProtocolError, match=f"lease {grant.lease} is not held"):
        other.give_back([grant.lease])
    holder.leases.give_back([grant.lease])
    with pytest.raises(RemoteProtocolError):
        holder.leases.give_back([grant.lease])


def test_close_frees_what_no_name_leads_to(holder: Holder) -> None:
    a = holder.region("a")
    holder.open(a)
    holder.region("a")
    assert a.number in holder.world.registry.regions
    run_to_end(holder.leases.closing())
    assert a.number not in holder.world.registry.regions


def test_many_leases_are_given_back_with_pauses(holder: Holder) -> None:
    region = holder.region("a")
    leases = [grant.lease for _ in range(5) for grant in holder.open(*[region] * 64)]
    assert holder.leases.release(leases[:MAX_RELEASED]) is None
    steps = holder.leases.release(leases[MAX_RELEASED:])
    assert steps is not None
    assert next(steps) is PAUSE
    assert len(region.leases) == len(leases) - 2 * MAX_RELEASED
    assert list(steps) == []
    assert region.leases == {}


def test_reply_with_many_regions_follows_a_pause(holder: Holder) -> None:
    region, frames = holder.region("a"), list[bytes]()

    def send_frame(frame: bytes, fds: Sequence[int]) -> None:
        assert len(region.leases) == len(fds)
        frames.append(frame)

    assert holder.leases.open_packed(1, [region] * MANY, send_frame, in_parts=True) is None
    assert (len(frames), len(region.leases)) == (1, MANY)
    run_to_end(holder.leases.closing())
    steps = holder.leases.open_packed(2, [region] * (MANY + 1), send_frame, in_parts=True)
    assert steps is not None
    assert next(steps) is PAUSE
    assert (len(frames), len(region.leases)) == (1, MANY + 1)
    assert list(steps) == []
    assert len(frames) == 2


def test_many_leases_whose_reply_is_never_sent_end_with_the_client(holder: Holder) -> None:
    region = holder.region("a")

    def never(_frame: bytes, _fds: Sequence[int]) -> None:
        pytest.fail("it ended")

    steps = holder.leases.open_packed(1, [region] * (MANY + 1), never, in_parts=True)
    assert steps is not None
    assert next(steps) is PAUSE
    steps.close()
    run_to_end(holder.leases.closing())
    assert region.leases == {}
    assert holder.world.registry.accounts.of(READER.uid).leases.used == 0


def test_one_of_many_leases_that_is_not_held_is_an_error(holder: Holder) -> None:
    region = holder.region("a")
    leases = [grant.lease for _ in range(3) for grant in holder.open(*[region] * 64)]
    steps = holder.leases.release([*leases, 1000])
    assert steps is not None
    with pytest.raises(RemoteProtocolError, match="lease 1000 is not held"):
        list(steps)
