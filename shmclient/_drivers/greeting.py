"""The host's answer to the greeting: its windows are reserved, and its board is mapped. Waits for nothing."""

from __future__ import annotations

import contextlib

from shmclient._drivers.operations import only
from shmclient._drivers.steps import Context, Outcome
from shmclient._process.address_space import ADDRESS_SPACE
from shmprotocol.errors import RemoteProtocolError, ShmError
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.wire import messages as m


def greeted(context: Context, outcome: Outcome) -> None:
    """Take the host's answer to the greeting. The descriptor of the board is closed in any case."""
    reply, owned = outcome
    welcome = only(reply, m.Welcome)
    if not m.VERSION_MIN <= welcome.version <= m.VERSION:
        raise RemoteProtocolError(
            f"the host chose version {welcome.version}, of {m.VERSION_MIN} to {m.VERSION}"
        )
    context.version = welcome.version
    context.outbox.host_id = welcome.host
    ADDRESS_SPACE.reserve(welcome.windows)
    try:
        if owned:
            context.outbox.board = _map_board(welcome, owned[0])
    finally:
        owned.close()


def _map_board(welcome: m.Welcome, descriptor: int) -> Board | None:
    """Map a board; None if it cannot be mapped here, or is not one: the host is asked each time then."""
    address, capacity = welcome.board
    with contextlib.suppress(ShmError, OSError):
        buffer = ADDRESS_SPACE.attach(
            (welcome.host, 0),
            descriptor,
            address,
            capacity,
            _do_nothing,
            "the board of the host",
            anywhere=True,  # nothing points into it
        )
        return Board(buffer.address, buffer.memory)
    return None


def _do_nothing() -> None:
    pass
