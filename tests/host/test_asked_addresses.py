"""Regions at addresses that their creators ask for: given as they are, or refused with who has them."""

from __future__ import annotations

import pytest

from session_support import CREATE, World
from settings_support import policy_of
from shmhost.core.window import STEP, AddressTaken, Allocator, Span
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire import messages as m


@pytest.fixture
def world() -> World:
    return World()


BASE, SIZE = 0x550000000000, 64 * STEP
OTHER = 0x510000000000


def test_address_is_taken_and_given_back() -> None:
    allocator = Allocator(((BASE, SIZE), (OTHER, SIZE)))
    span, window = allocator.claim_at(OTHER + 3 * STEP, 4096)
    assert (span, window) == (Span(OTHER + 3 * STEP, STEP), allocator.windows[1])
    with pytest.raises(AddressTaken):
        allocator.claim_at(OTHER + 2 * STEP, STEP)  # with its guard it reaches into the next step
    allocator.give(span)
    assert allocator.claim_at(OTHER + 2 * STEP, STEP)[0].size == 2 * STEP


@pytest.mark.parametrize(
    ("address", "capacity"),
    [
        (1, 4096),
        (BASE + 4096, 4096),
        (BASE - STEP, 4096),
        (BASE + SIZE, 4096),
        (BASE + SIZE - STEP, STEP),
        (2**64 - STEP, 4096),
        (BASE, 2**63),
    ],
)
def test_address_that_no_region_can_have_is_refused(address: int, capacity: int) -> None:
    allocator = Allocator(((BASE, SIZE),))
    with pytest.raises(InvalidArgument, match="its windows are 0x550000000000"):
        allocator.claim_at(address, capacity)
    assert allocator.windows[0].free() == SIZE


def test_last_step_of_a_window_can_be_asked_for() -> None:
    assert Allocator(((BASE, SIZE),)).claim_at(BASE + SIZE - STEP, 4096)[0].end == BASE + SIZE


def test_region_gets_the_address_or_the_client_learns_who_has_it(world: World) -> None:
    talk, stranger = world.client(uid=1000), world.client(uid=2000)
    first = talk.say(CREATE)
    assert isinstance(first, m.Created)
    talk.say(m.Abort(0, first.region, False))
    again = talk.say(CREATE._replace(address=first.address))
    assert isinstance(again, m.Created)
    assert again.address == first.address
    refused = talk.say(CREATE._replace(name="other", address=first.address))
    assert refused.code == "address-conflict"
    assert repr(CREATE.name) in refused.text
    hidden = stranger.say(CREATE._replace(name="theirs", address=first.address))
    assert hidden.code == "address-conflict"
    assert "uid 1000 has them" in hidden.text
    assert repr(CREATE.name) not in hidden.text


def test_refused_address_charges_nothing(world: World) -> None:
    talk = world.client(uid=1000)
    first = talk.say(CREATE)
    before = world.hub.registry.accounts.in_use()
    for address in (first.address, 4096):
        assert isinstance(talk.say(CREATE._replace(name="y", address=address)), m.Refused)
    assert world.hub.registry.accounts.in_use() == before


def test_policy_can_forbid_addresses(world: World) -> None:
    talk = world.client(uid=1000)
    first = talk.say(CREATE)
    talk.say(m.Abort(0, first.region, False))
    world.hub.registry.accounts.restrict(policy_of("[[names]]\ntitle = 'plain'\nat_address = false"))
    refused = talk.say(CREATE._replace(address=first.address))
    assert (refused.code, "the rule 'plain' forbids that" in refused.text) == ("access-denied", True)
    assert isinstance(talk.say(CREATE), m.Created)
