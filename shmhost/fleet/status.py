"""The answer of a host to `shmhost fleet`: itself, and its fleet as it sees it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmhost.fleet.service import Service


def own_status(service: Service, asker: str) -> dict[str, Any]:
    """Return the status of a host, as the host of a name may see it, of values that msgpack and JSON have."""
    now_s = time.monotonic()
    card = service.card()
    return {
        "name": card.name,
        "address": card.address,
        "slice": card.held,
        "lost": list(service.claims.lost),
        "slices": card.slices,
        "windows": [list(window) for window in card.windows],
        "free": sum(window.free() for window in service.allocator.windows),
        "links": service.links,
        **service.sharing.status(asker),
        "peers": [
            {
                "name": member.name,
                "address": member.address,
                "refused": member.refused,
                "silent_s": round(max(now_s - member.heard_s, 0.0), 3),
            }
            for member in service.members.present.values()
        ],
    }
