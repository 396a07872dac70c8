"""The answer to a Survey: who holds values of an arena, read from the ledgers of its clients.

A client can have 131,072 holds, and write anything there: so a few are read at a time, others go first in
between, and an answer has a bounded number. Knows no clock or thread; the ledgers read their memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from shmhost.core.arenas import Arena
from shmhost.core.leases import Send
from shmhost.core.ledgers import Ledger
from shmhost.core.peers import Peer
from shmhost.core.regions import READ, Region
from shmhost.core.registry import Registry
from shmhost.core.work import PAUSE, Steps
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import LEDGER_HOLDS, State

MAX_HOLDS = 2048  # in an answer: of 50 bytes at most each
MAX_LOOKS = 128  # slices for one answer
SLICE = 256  # holds at a time, which takes 50 us if all are used
_HOLD = struct.Struct("<QQ")  # struct shm_ledger_hold: block, since_ns
_HIGH = struct.Struct("<Q")  # of struct shm_ledger, at its start: no hold from there on was ever used


def survey(registry: Registry, peer: Peer, request: m.Survey, send: Send) -> Steps:
    """Gather an answer and send it. InvalidArgument: there is no such arena."""
    region = registry.regions.get(request.region)
    if region is None or region.arena is None or not region.generation or not region.is_visible(peer):
        raise InvalidArgument(f"region {request.region} is not a published arena that you may read")
    region.check(peer, READ)
    holds: list[m.Hold] = []
    rest = (0, 0)
    for looks, (ledger, first) in enumerate(_slices(region.arena, request.ledger, request.hold)):
        if looks == MAX_LOOKS or len(holds) > MAX_HOLDS - SLICE:
            rest = (ledger.number, first)
            break
        holds += _holds_in(ledger, first, region)
        yield PAUSE
    if region.state is State.FREED or region.object is None:
        raise InvalidArgument(f"region {request.region} has gone")
    send(m.Surveyed(request.id, tuple(holds), *rest), (region.object.reader(),))


def _slices(arena: Arena, number: int, hold: int) -> Iterator[tuple[Ledger, int]]:
    """Yield each ledger that has joined, in the order of their numbers, with the first hold of each slice."""
    for ledger in sorted(arena.ledgers, key=lambda ledger: ledger.number):
        if ledger.number < number:
            continue
        first = hold if ledger.number == number else 0
        while ledger in arena.ledgers and first < _high(ledger):  # it may have gone meanwhile
            yield ledger, first
            first += SLICE


def _high(ledger: Ledger) -> int:
    high: int = _HIGH.unpack(ledger.object.read(0, _HIGH.size))[0]
    return min(high, LEDGER_HOLDS)


def _holds_in(ledger: Ledger, first: int, region: Region) -> list[m.Hold]:
    """Return the holds of a slice that name a place in the arena."""
    assert region.arena is not None
    start, end = region.span.address + HEADER_SIZE, region.span.address + region.arena.size
    count = min(SLICE, LEDGER_HOLDS - first)
    data = ledger.object.read(HEADER_SIZE + first * _HOLD.size, count * _HOLD.size)
    peer = ledger.peer
    return [
        m.Hold(ledger.number, peer.uid, peer.gid, peer.pid, block, since_ns)
        for block, since_ns in _HOLD.iter_unpack(data)
        if start <= block < end
    ]
