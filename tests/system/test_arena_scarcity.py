"""A host that has no descriptor left for an arena, its control socket, or a ledger."""

from __future__ import annotations

import os
import resource

import pytest

from arena_support import ArenaPeer
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from support import Machine, wait_until

ARENA = m.Arena(2, "camera", 1 << 16, 0, 0o600, True, False)


def opened_by(pid: int) -> list[int]:
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def limit_to(pid: int, more: int) -> None:
    """Let a process open so many descriptors more: the limit is about their numbers."""
    used = opened_by(pid)
    free = [number for number in range(used[-1] + more + 2) if number not in used]
    limit = free[more]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


def measured(peer: ArenaPeer) -> m.Measured:
    """Return what the host counts.

    What users may have at most follows its limit of descriptors, and it looks only now and then at what they
    have not read yet.
    """
    counters, _ = peer.ask(m.Measure(4))
    assert isinstance(counters, m.Measured)
    uses = tuple(use._replace(most=0) for use in counters.uses if "unread" not in use.resource)
    return counters._replace(timings=(), refusals=(), uses=uses)


@pytest.mark.parametrize("what", ["arena", "ledger"])
def test_each_descriptor_that_is_missing_is_a_refusal_and_no_leak(machine: Machine, what: str) -> None:
    assert machine.child is not None
    pid = machine.child.pid
    with ArenaPeer(machine.path) as peer, ArenaPeer(machine.path) as reader:
        if what == "ledger":
            owned = peer.publish()
            assert owned.grow(1 << 16)[0] == 0
        request: m.Message = ARENA if what == "arena" else m.Open(3, ("camera",), (), False)
        peer.ask(m.Measure(4))
        before = opened_by(pid), measured(peer)
        for more in range(12):
            limit_to(pid, more)
            reply, fds = reader.ask(request)
            if not isinstance(reply, m.Refused):
                break
            assert reply.code == "out-of-memory", reply
            assert (opened_by(pid), measured(peer)) == before
        assert 2 <= more < 12
        descriptors.close_all(fds)
        limit_to(pid, 50)
        assert isinstance(reader.ask(m.Stat(5, "other"))[0], m.Refused)
    wait_until(lambda: is_empty(machine))


def is_empty(machine: Machine) -> bool:
    with ArenaPeer(machine.path) as peer:
        for name in ("camera", "other"):
            peer.ask(m.Unlink(4, name))
        measured, _ = peer.ask(m.Measure(3))
        assert isinstance(measured, m.Measured)
        return (measured.used, measured.arenas, measured.ledgers) == (0, 0, 0)
