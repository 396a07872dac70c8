"""The way into the fleet of a host that has taken another's place: it serves meanwhile, and asks nobody.

Both have one identity, so it begins when the other one has ended: a connection to that one says so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmhost.fleet.service import Service

LOG = logging.getLogger("shmhost")

AGAIN_S = 2.0  # after an attempt in vain, as when a port is taken


async def rejoin(service: Service, predecessor: socket.socket) -> None:
    """Come into the fleet when a predecessor has ended its connection, which is closed then.

    An error is logged, and it tries again: clients of this host are served.
    """
    with predecessor:
        await _end_of(predecessor)
    while True:
        try:
            await service.appear()
            break
        except Exception as error:  # also zenoh's, or of the files of TLS: nothing else would try it again
            LOG.error("%s. Its own clients are served, and it tries again", error)
            await asyncio.sleep(AGAIN_S)
    service.go_on()
    claims = service.claims
    if claims.held is None and claims.fixed not in claims.lost:
        await service.agree_again()
    else:
        await service.remember()


async def _end_of(connection: socket.socket) -> None:
    """Wait until the other side of a connection has ended; it says nothing more."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(connection)
