"""The requests about a host that takes the place of another: of the successor, and of clients. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from shmhost.core.hub import Hub
from shmhost.core.leases import Send
from shmhost.core.peers import Peer
from shmhost.core.registry import Registry
from shmhost.core.state_records import STATE_FORM
from shmhost.core.work import PASS_ON, SETTLE, Steps
from shmprotocol.errors import AccessDenied, Unsupported
from shmprotocol.wire import messages as m


def find_board(registry: Registry, request: m.FindBoard, send: Send) -> None:
    """Say where the board is."""
    board = registry.board
    send(m.BoardFound(request.id, board.range), (board.reader(),) if board.range[1] else ())


def hand_over(hub: Hub, peer: Peer, request: m.Takeover, send: Send) -> Steps:
    """Pass all on to a successor, after which this process ends; or say why not. ShmError."""
    hub.check_successor(peer, request)
    yield SETTLE
    send(m.Done(request.id), ())
    yield PASS_ON


def check_successor(hub: Hub, own_uid: int, peer: Peer, request: m.Takeover) -> None:
    """Refuse a successor that may not have all, or would not understand it. ShmError."""
    if peer.uid not in (0, own_uid):
        raise AccessDenied(f"uid {peer.uid} may not take over a host of uid {own_uid}")
    if request.state != STATE_FORM:
        raise Unsupported(
            f"this host says what it has in form {STATE_FORM}, shmhost {request.package} in form "
            f"{request.state}: end this one and start the other"
        )
    windows = tuple((window.base, window.size) for window in hub.registry.allocator.windows)
    if request.windows != windows:
        raise Unsupported(
            f"the windows of a host stay as they are, {_shown(windows)}, not {_shown(request.windows)}: "
            "clients have reserved them"
        )


def _shown(windows: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{base:#x}:{size}" for base, size in windows)
