"""What `list`, `stat` and `watch` give: frozen values, not the wire's tuples."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

import shmclient
from shmclient._regions.info import info_of
from shmprotocol.wire import messages as m

RECORD = m.RegionInfo("a", 7, 2, "current", 4096, 1, 8192, 3, 4, 0o640, "full", "memfd", 5, 6, 9)


def test_info_says_what_the_wire_says() -> None:
    values = dataclasses.asdict(info_of(RECORD))
    said = {{"region": "number"}.get(name, name): value for name, value in RECORD._asdict().items()}
    assert values == {name: value for name, value in said.items() if name not in ("kind", "arena")}


def test_info_equals_its_own_kind_alone() -> None:
    """A later host may say more: whoever compares with a tuple, or unpacks, would break then."""
    info = info_of(RECORD)
    assert info == info_of(RECORD) != RECORD
    assert hash(info) == hash(info_of(RECORD))
    with pytest.raises(TypeError, match="iterable"):
        tuple(info)  # type: ignore[arg-type]


def test_info_is_frozen_and_survives_pickle() -> None:
    info = info_of(RECORD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = "b"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(info)) == info


def test_list_stat_and_watch_give_public_classes(shm: shmclient.Client) -> None:
    with shm.watch() as changes:
        region = shm.put("x", b"123")
        change, info = next(changes), shm.stat("x")
    assert (type(change), change.kind) == (shmclient.Change, "published")
    assert type(change.info) is shmclient.RegionInfo
    assert shm.list() == [info]
    assert (info.number, info.generation, info.size) == (region.number, region.generation, 3)
