"""The board of the process that serves, which may be another one by now. Does no I/O: yields steps."""

from __future__ import annotations

from shmclient._connection.board import LazyBoard
from shmclient._drivers.answers import only
from shmclient._drivers.steps import Ask, Context, Operation
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.wire import messages as m


def living_board(context: Context) -> Operation[Board | None]:
    """Return the board; ask for it if its host is gone, and this connection is that of a successor.

    None: there is none, or it cannot be mapped. The board before goes when nobody looks at it any more.
    """
    board = context.outbox.board
    if board is None or board.lives() or context.version < m.HANDOVER_VERSION:
        return board
    reply, owned = yield Ask(m.FindBoard(context.outbox.next_id()))
    board_range = only(reply, m.BoardFound).board
    if owned:
        context.outbox.lazy_board = LazyBoard(context.outbox.host_id, *board_range, owned)
    return context.outbox.board
