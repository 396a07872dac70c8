"""The record of a small put, which is written as the put is published."""

from __future__ import annotations

import errno
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_put import PUT, limited
from test_small_puts import BoardWorld, failing, put

from shmhost.core import records
from shmhost.core.records import Identity, Record
from shmhost.core.regions import Region
from shmhost.machine.state_file import StateFile
from shmprotocol.native import builtins
from shmprotocol.wire import messages as m
from support import forbid, in_child

STATX = 332
needs_statx = pytest.mark.skipif(platform.machine() != "x86_64", reason="the number is that of x86-64")


class NotingWorld(BoardWorld):
    """A world with a state file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.file = StateFile(str(path))
        self.hub.registry.book = self.file

    def region(self, grant: m.Grant | None) -> Region:
        assert grant is not None
        return self.hub.registry.regions[grant.region]

    def bytes_of(self, region: Region) -> bytes:
        return self._path.read_bytes()[region.record : region.record + records.SIZE]

    def noted(self) -> list[Record]:
        """Return what a successor would read."""
        file = StateFile(str(self._path))
        file.close(remove=False)
        return file.records


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NotingWorld]:
    world = NotingWorld(tmp_path / "h.sock.state")
    yield world
    world.hub.registry.close()
    world.board.close()
    world.file.close(remove=True)


@pytest.mark.parametrize("name", ["n", "n" * 255])
def test_record_of_a_small_put_is_that_of_any_put(name: str, world: NotingWorld) -> None:
    talk = world.client()
    put(talk, PUT._replace(name=name))
    talk.say(m.Chmod(2, name, 0o604))  # so that the rights are not 0
    region = world.region(put(talk, PUT._replace(name=name, mode=0o640)))
    assert region.rights > 0
    written = world.bytes_of(region)
    world.file.enter(region)  # as any other put does, elsewhere
    assert world.bytes_of(region) == written
    record = records.read(written, region.record)
    assert record is not None
    assert region.object is not None
    assert record.identity == Identity._make(builtins.identify(region.object.reader()))
    assert (record.mode, record.rights, record.size) == (0o640, region.rights, PUT.data_size)


def test_replaced_region_that_nobody_has_leaves_no_record(world: NotingWorld) -> None:
    talk = world.client()
    first = put(talk, PUT)
    assert first is not None
    second = put(talk, PUT, first.lease)
    assert [record.number for record in world.noted()] == [world.region(second).number]


def test_put_that_fails_leaves_the_record_of_the_older_one(world: NotingWorld) -> None:
    talk = world.client()
    older = world.region(put(talk, PUT))
    before = world.bytes_of(older)
    failing(talk, PUT)  # once it is published
    free = os.dup(0)
    os.close(free)
    with limited(7, free):  # RLIMIT_NOFILE
        assert put(talk, PUT) is None  # before it is
    assert [record.number for record in world.noted()] == [older.number]
    assert world.bytes_of(older) == before


@needs_statx
def test_put_of_an_object_without_an_identity_has_no_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def put_twice() -> None:
        forbid(STATX, errno.EPERM)
        world = NotingWorld(tmp_path / "h.sock.state")  # a child has no memory of an inherited board
        talk = world.client()
        with caplog.at_level(logging.WARNING):
            regions = [world.region(put(talk, PUT._replace(name=name))) for name in "ab"]
        assert [region.record for region in regions] == [0, 0]
        assert len(world.noted()) == 0
        assert [record.message.endswith(os.strerror(errno.EPERM)) for record in caplog.records] == [True]

    assert in_child(put_twice) == 0
