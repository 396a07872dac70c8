"""The life of a region: what may follow what."""

from __future__ import annotations

import pytest

from shmhost.core.accounts import Accounts
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.resources import Totals
from shmhost.core.window import STEP, Span, Window
from shmprotocol.wire.names import Backend, Seal, State


def new_region() -> Region:
    window = Window(1 << 40, STEP)
    return Region(
        number=1,
        name="x",
        owner=Peer(7, 70),
        mode=0o640,
        seal=Seal.FULL,
        backend=Backend.MEMFD,
        room=100,
        capacity=8192,
        span=Span(window.base, STEP),
        window=window,
        charge=Accounts(Totals(8192)).of(0).charge(8192),
    )


@pytest.mark.parametrize("state", list(State))
def test_nothing_follows_the_end_of_a_region(state: State) -> None:
    region = new_region()
    region.move(State.FREED)
    with pytest.raises(AssertionError, match=f"'x' was freed and cannot become {state}"):
        region.move(state)


def test_region_is_not_published_once_its_creation_has_ended() -> None:
    region = new_region()
    region.move(State.ABORTED)
    with pytest.raises(AssertionError, match="was aborted and cannot become current"):
        region.move(State.CURRENT)


@pytest.mark.parametrize("state", [State.CREATING, State.ABORTED])
def test_published_region_is_never_a_creation_again(state: State) -> None:
    region = new_region()
    region.move(State.CURRENT)
    with pytest.raises(AssertionError, match=f"was current and cannot become {state}"):
        region.move(state)
