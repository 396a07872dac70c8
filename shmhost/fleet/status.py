"""The answer of a host to `shmhost fleet`: itself, and its fleet as it sees it."""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmhost.fleet.service import Service

SHOWN = 1000  # replicas in a status


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
        **_shared(service, asker),
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


def _shared(service: Service, asker: str) -> dict[str, Any]:
    """Return what is shared with others, as far as the host of a name may see it."""
    sharing, plan = service.sharing, service.plan
    replicas = sharing.replicas
    rows = [
        {"name": name, "generation": each.announcement.generation, "size": each.announcement.room,
         "state": "whole", "lag_s": round(each.lag_s, 3)}
        for name, each in heapq.nsmallest(SHOWN, replicas.current.items())
    ]  # fmt: skip
    for name, pull in heapq.nsmallest(SHOWN, replicas.pulls.items()):
        here = pull.transfer.bytes_here if pull.transfer is not None else 0
        rows.append(
            {"name": name, "generation": pull.announcement.generation, "size": pull.announcement.room,
             "state": f"{here * 100 // pull.announcement.room}%", "lag_s": 0.0}
        )  # fmt: skip
    failed = {name: reason for name, (reason, _) in heapq.nsmallest(SHOWN, replicas.failed.items())}
    exports = {name: each.announcement.generation
               for name, each in heapq.nsmallest(SHOWN, sharing.exports.entries.items())}  # fmt: skip
    failed |= sharing.values.failed()
    conflicts = {name: [service.host_name(host) for host in hosts]
                 for name, hosts in sharing.conflicts.names.items()}  # fmt: skip
    if asker != plan.name:
        may = plan.access.may_import
        exports = {name: exports[name] for name in exports if may(asker, name)}
        rows = [row for row in rows if may(asker, str(row["name"]))]
        failed = {name: failed[name] for name in failed if may(asker, name)}
        conflicts = {name: conflicts[name] for name in conflicts if may(asker, name)}
    return {"exports": exports, "replicas": rows, "failed": failed, "conflicts": conflicts}
