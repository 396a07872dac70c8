"""The board of the process that serves, which may be another one by now. Does no I/O: yields steps."""

from __future__ import annotations

from shmclient._connection.board import LazyBoard
from shmclient._drivers.answers import only
from shmclient._drivers.steps import Ask, Context, Operation
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.wire import messages as m


def living_board(context: Context) -> Operation[Board | None]:
    """Return the board; ask for it if its host has handed over to another process.

    None: there is none, or it cannot be mapped. The board before goes when nobody looks at it any more.
    """
    board = context.outbox.board
    if board is None or not board.has_moved() or context.version < m.HANDOVER_VERSION:
        return board
    yield from find_board(context)
    return context.outbox.board


def find_board(context: Context) -> Operation[None]:
    """Ask which board is that of the process which serves, and look at that from now on."""
    if context.version < m.HANDOVER_VERSION:
        return
    reply, owned = yield Ask(m.FindBoard(context.outbox.next_id()))
    board_range = only(reply, m.BoardFound).board
    if owned and board_range[0] != context.outbox.lazy_board.address:
        context.outbox.lazy_board = LazyBoard(context.outbox.host_id, *board_range, owned)
    else:
        owned.close()
