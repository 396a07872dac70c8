"""How a host uses zenoh: its settings, of the file of the fleet. Nothing else imports it.

zenoh's own shared memory is off, and so is multicast: hosts meet by the endpoints in their files, and by what
their peers say about others.
"""

from __future__ import annotations

import json
from typing import Any

from shmhost.fleet.access import rules_of
from shmhost.fleet.config import FleetConfig
from shmprotocol.errors import HostError

MAX_RECEIVED = 8 * 2**20  # bytes of a message that zenoh puts together for us: twice the largest chunk
LEASE_MS = 5000  # after which a link without a sign of life is closed; four of them in that time


def zenoh_module() -> Any:
    """Return zenoh. HostError: it is not installed."""
    try:
        import zenoh
    except ModuleNotFoundError as error:
        raise HostError(f"{error}: a fleet needs zenoh: pip install 'shmhost[fleet]'") from None
    return zenoh


def settings_of(zenoh: Any, plan: FleetConfig, *, is_observer: bool = False) -> Any:
    """Return zenoh's configuration. An observer listens nowhere, and tries the hosts of the file, once."""
    settings = zenoh.Config()
    connect = [*plan.listen, *plan.connect] if is_observer else list(plan.connect)
    values: dict[str, object] = {
        "mode": "peer",
        "listen/endpoints": [] if is_observer else list(plan.listen),
        "connect/endpoints": connect,
        "scouting/multicast/enabled": False,
        "transport/shared_memory/enabled": False,
        "transport/link/tx/lease": LEASE_MS,
        "transport/link/rx/max_message_size": MAX_RECEIVED,
    }
    if plan.tls is not None:
        values |= {
            "transport/link/tls/root_ca_certificate": plan.tls.ca,
            "transport/link/tls/listen_certificate": plan.tls.certificate,
            "transport/link/tls/listen_private_key": plan.tls.key,
            "transport/link/tls/connect_certificate": plan.tls.certificate,
            "transport/link/tls/connect_private_key": plan.tls.key,
            "transport/link/tls/enable_mtls": True,
        }
    if plan.access.peers is not None and not is_observer:
        values["access_control"] = rules_of(f"shmhost/{plan.fleet}", plan.name, plan.access.peers)
    for key, value in values.items():
        settings.insert_json5(key, json.dumps(value))
    return settings
