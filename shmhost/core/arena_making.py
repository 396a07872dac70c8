"""New arenas: what the host takes for one before it has an object. Pure."""

from __future__ import annotations

from shmhost.core.arenas import ARENA_FILES, Arena, sizes_of
from shmhost.core.names import check_below
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.shares import Share
from shmprotocol.abi.header import HEADER_SIZE, KIND_ARENA
from shmprotocol.errors import QuotaExceeded, ShmError, Unsupported
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import Seal, State, check_mode, check_name


def create_arena(registry: Registry, request: m.Arena, peer: Peer) -> Region:
    """Take name, bytes, addresses and line for a new arena, which has no object yet; or refuse."""
    size, span = sizes_of(request)
    check_name(request.name)
    check_mode(request.mode)
    registry.check_replace(request, peer)
    check_below(registry.names, registry.current, request.name, peer)
    account = registry.accounts.of(peer.uid)
    region = registry.take(size - HEADER_SIZE, size, peer, span, ARENA_FILES)
    try:
        region.charge.also(account.arenas, 1)
        region.line = _take_line(registry, request.name, account.lines)
    except ShmError:
        registry.allocator.give(region.span)
        region.charge.release()
        raise
    region.name, region.mode = request.name, request.mode
    region.seal, region.kind = Seal.WRITER, KIND_ARENA
    region.arena = Arena(span, request.keep, region.line, size, registry.board)
    registry.creating[region.name] = region
    registry.add(region, State.CREATING)
    registry.arenas.add(region)
    return region


def _take_line(registry: Registry, name: str, share: Share) -> int:
    """Return a line of the board for an arena, which shares it with nothing; or refuse."""
    board = registry.board
    if not board.names:
        raise Unsupported("this host has no board, which arenas need: start it with --board")
    share.take(1)
    share.give(1)
    line = registry.lines.take(board, share)
    if not line:
        raise QuotaExceeded(
            f"the board has no line for the arena {name!r}: all {board.names} are in use. Unlink others, or "
            "start the host with a larger --board"
        )
    return line
