"""What tests of references need: an end of what this process keeps for them."""

from __future__ import annotations

import math

from shmclient._connection.hosts import OPENER
from shmclient._drivers.references import TRANSIT


def forget_references() -> None:
    """Keep no mapping for references that were sent without a host, nor the client that opens them."""
    TRANSIT.drop(math.inf)
    for client in OPENER._clients.values():
        client.close()
    OPENER._clients.clear()
