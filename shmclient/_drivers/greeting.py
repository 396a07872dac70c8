"""The host's answer to the greeting: its windows are reserved, and its board is kept. Waits for nothing."""

from __future__ import annotations

from shmclient._connection.board import LazyBoard
from shmclient._connection.hosts import note_host
from shmclient._drivers.answers import only
from shmclient._drivers.steps import Context, Outcome
from shmclient._process.address_space import ADDRESS_SPACE
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import messages as m


def greeted(context: Context, outcome: Outcome, path: str) -> None:
    """Take the host's answer to the greeting. The outbox owns the descriptor of the board from then on."""
    reply, owned = outcome
    welcome = only(reply, m.Welcome)
    if not m.VERSION_MIN <= welcome.version <= m.VERSION:
        raise RemoteProtocolError(
            f"the host chose version {welcome.version}, of {m.VERSION_MIN} to {m.VERSION}"
        )
    context.version = welcome.version
    context.outbox.arrive(welcome.host, path, is_kept=welcome.version >= m.RESTORE_VERSION)
    note_host(context.outbox.origin, path)
    ADDRESS_SPACE.reserve(welcome.windows)
    if owned:
        context.outbox.lazy_board = LazyBoard(welcome.host, *welcome.board, owned)
