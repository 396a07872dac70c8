"""What the part of a host that shares regions sees of the rest, without that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shmhost.core.window import STEP
from shmhost.fleet.claims import Claims
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.members import Members
from shmhost.fleet.plan import SlicedAllocator

OWN = "a" * 32  # the address of the host


def sharing_parts(plan: FleetConfig, registry: Any, **others: Any) -> Any:
    """Return a stand-in for a `Service`, with a window of two slices."""
    return SimpleNamespace(
        plan=plan,
        hub=SimpleNamespace(registry=registry),
        engine=None,
        address=OWN,
        members=Members(),
        socket_path="/nowhere",
        claims=Claims(OWN[:16], 2),
        **{"allocator": SlicedAllocator(((1 << 40, 64 * STEP),), 2), **others},
    )
