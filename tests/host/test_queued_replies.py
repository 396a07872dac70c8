"""A host that is killed while the reply to a put waits for a client that reads nothing.

A reply that leaves at once is noted by its own system call. One that waits leaves in a later turn of the
loop; by then the state file says what it replaced.
"""

from __future__ import annotations

import shmclient
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.query import Query
from support import Machine, RawPeer, wait_until

COUNT = 200  # names: more than replies that the kernel takes for a client that reads nothing


def queued(path: str) -> int:
    with Query(path) as query:
        return sum(use.used for use in query.measure().uses if use.resource == "queued")


def generations(path: str) -> dict[str, int]:
    with Query(path) as query:
        return {info.name: info.generation for info in query.regions("n/")}


def test_value_that_was_replaced_does_not_come_back_though_the_reply_has_not_left(machine: Machine) -> None:
    names = [f"n/{number:03}" for number in range(COUNT)]
    with shmclient.connect(machine.path) as shm, RawPeer(machine.path) as peer:
        for name in names:
            shm.put(name, b"old").close()
        values = shm.get_many(names)
        puts = [m.Put(number, name, 0o600, True, 3, 0, 0, b"new") for number, name in enumerate(names, 2)]
        peer.send(b"".join(map(pack, puts)))
        wait_until(lambda: queued(machine.path) > 0)
        replaced = {name for name, generation in generations(machine.path).items() if generation == 2}
        assert 0 < len(replaced) < COUNT
        machine.restart()
        wait_until(lambda: generations(machine.path).keys() == set(names) - replaced)
        assert {bytes(value) for value in values} == {b"old"}
    machine.kill()
