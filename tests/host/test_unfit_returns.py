"""Regions that the next host cannot take, for whatever reason: they harm no others, and no start."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from test_expected import VALUE, names
from test_returns import hand_back, holding, put
from test_state_file import Hosts, publish

from shmhost.core.from_store import restore
from shmhost.core.hub import Hub
from shmhost.core.objects import Memfd, MemoryObject
from shmhost.core.records import Record
from shmhost.core.stored import Stored, entry_of
from shmhost.machine.returned import Returnables
from shmhost.machine.shm_names import ShmNames
from support import RawPeer
from takeover_support import line_of_hosts

UNFIT = """
import errno, os
from shmhost.machine.returned import Returnables

adopt = Returnables.adopt

def refuse(self, record, descriptor):
    if record.name == "unfit":
        raise OSError(errno.ETXTBSY, os.strerror(errno.ETXTBSY))
    return adopt(self, record, descriptor)

Returnables.adopt = refuse
"""


def test_client_gets_the_others_of_what_it_hands_back(tmp_path: Path) -> None:
    with line_of_hosts(tmp_path / "h.sock", first=UNFIT) as line:
        for name in ("a", "unfit", "b"):
            put(line.path, name, VALUE)
        with holding(line.path, "a", "unfit", "b") as held:
            line.kill_and_start()
            with RawPeer(line.path) as peer:
                grants = hand_back(peer, *[(each.grant.region, each.descriptor) for each in held])
                assert [grant.lease != 0 for grant in grants] == [True, False, True]
                assert [grant.flags for grant in grants if not grant.lease] == [0]  # for good
                assert names(line.path) == ["a", "b"]


class Unfit(Returnables):
    def adopt(self, record: Record, descriptor: int) -> MemoryObject:
        if record.name == "unfit":
            raise OSError(errno.ETXTBSY, os.strerror(errno.ETXTBSY))
        return super().adopt(record, descriptor)


def test_store_gives_the_others_of_what_it_has(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path / "h.sock.state")
    before, _ = hosts.start()
    objects = {name: publish(before, name).object for name in ("a", "unfit", "b")}
    registry, expected = hosts.start()
    hub = Hub(registry, "host", lambda _backend, name, capacity: Memfd(name, capacity))
    hub.expected, hub.returnables = expected, Unfit(ShmNames("shmhost-none"))
    stored = Stored(registry)
    stored.open(8)
    numbers = {name: before.current[name].number for name in objects}
    entries = [(entry_of(numbers[name]), each.reader()) for name, each in objects.items() if each is not None]
    assert restore(hub, stored, entries) == 2
    assert registry.names == ["a", "b"]
    change = stored.next()
    assert change is not None
    assert change == (entry_of(numbers["unfit"]), None)
    registry.close()
    before.close()
    hosts.close()
