"""The regions of a host that was killed, as long as clients may hand them back. Pure.

Their addresses are taken: a client can have them mapped. Their names are free: whoever publishes one has the
newer generation. Nothing shows or charges them before they are back.

Each client hands back what it has, and nobody knows how many have the same. So a region that is back, and
freed when those that are here need it no more, is expected again: for a client that is late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fcntl import F_SEAL_GROW

from shmhost.core.names import check_above, check_below
from shmhost.core.objects import ARENA_SEALS, SEALS, MemoryObject
from shmhost.core.rebuilding import rebuild
from shmhost.core.records import Identity, Record
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.window import Span, Window
from shmprotocol.abi.header import KIND_ARENA, PAGE
from shmprotocol.errors import AccessDenied, RegionBusy, RegionExists
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.items import NO_ARENA
from shmprotocol.wire.messages import RegionInfo
from shmprotocol.wire.names import State


class Returned(NamedTuple):
    """An object that a client hands back, as the kernel describes it."""

    identity: Identity
    size: int
    seals: int


class Expected:
    """The regions that may come back. `forget` and `retire` note for a successor what became of one.

    `leave` is called for each that has lost its name: what stands under that must go.
    """

    named: int
    named_bytes: int

    def __init__(
        self, registry: Registry, forget: Callable[[int], None], retire: Callable[[Record], None]
    ) -> None:
        self.leave: Callable[[Record], object] = lambda _record: None
        self.named, self.named_bytes = 0, 0  # of those that may get their names back
        self.returned: int = 0  # how many are back
        self._registry = registry
        self._forget = forget
        self._retire = retire
        self._records: dict[int, tuple[Record, Window]] = {}  # by the region's number
        self._back: dict[int, tuple[Record, Window]] = {}  # likewise, of those that are back
        self._again: set[int] = set()  # of `_records`: they were back
        self._boards: list[tuple[Span, Window]] = []  # of earlier hosts: clients may have them mapped
        self._current: dict[str, list[Record]] = {}  # those that may get their name back

    def __len__(self) -> int:
        """Return how many were never back."""
        return len(self._records) - len(self._again)

    @property
    def takes_addresses(self) -> bool:
        """Whether addresses are taken for what may come back, or for boards."""
        return bool(self._records or self._boards)

    @property
    def may_return(self) -> bool:
        """Whether anything may be handed back, perhaps once more."""
        return bool(self._records or self._back)

    def load(self, records: Iterable[Record]) -> None:
        """Take the addresses of regions; forget those whose addresses are not free, or not in a window."""
        for record in records:
            window = self._registry.allocator.claim(record.span)
            if window is None or record.number in self._records:
                self._forget(record.offset)
                continue
            self._records[record.number] = record, window
            if record.state is State.CURRENT:
                self._current.setdefault(record.name, []).append(record)
                self._count(1, record)

    def load_boards(self, spans: Iterable[Span]) -> None:
        """Take the addresses of boards, as far as they are free."""
        for span in spans:
            window = self._registry.allocator.claim(span)
            if window is not None:
                self._boards.append((span, window))

    def resume(self, record: Record, window: Window) -> None:
        """Take note of a region that was back with another host."""
        self._back[record.number] = record, window

    def expect_again(self, region: Region) -> bool:
        """Take note that a region which was back is freed; False: nobody may hand it back once more.

        Its addresses stay taken, and its record where it is.
        """
        record, window = self._back.pop(region.number, (None, region.window))
        if record is None or not region.record:
            return False
        record = record._replace(state=region.state, mode=region.mode, rights=region.rights)
        self._records[region.number] = record, window
        self._again.add(region.number)
        return True

    def find(self, number: int) -> Record | None:
        """Return what is known of a region that is not back yet."""
        entry = self._records.get(number)
        return entry[0] if entry is not None else None

    def has_object(self, name: str, device: int, inode: int) -> bool:
        """Whether a region may get this name back that has this object."""
        return any(record.identity[:2] == (device, inode) for record in self._current.get(name, ()))

    def newest(self, name: str) -> Record | None:
        """Return the newest region that may get this name back."""
        return max(self._current.get(name, ()), key=lambda record: record.generation, default=None)

    def unlink(self, name: str) -> None:
        """Let no region have this name again."""
        for record in self._current.pop(name, ()):
            self._count(-1, record)
            self._retire_record(record, State.UNLINKED)
            self.leave(record)

    def revive(self, record: Record, memory_object: MemoryObject, *, is_over: bool = False) -> Region:
        """Enter a region that is back into the registry; its name is its own again unless a newer one has it.

        Of an arena that `is_over` without its owner the name is gone. The caller gives it a lease, and tells
        those who listen if it is CURRENT. QuotaExceeded: an arena finds no line of the board.
        """
        entry = _, window = self._records[record.number]
        state = record.state
        if state is State.CURRENT:
            older = self._registry.current.get(record.name)
            if (older is not None and older.generation > record.generation) or not self._has_place(record):
                state = State.SUPERSEDED
            elif is_over:
                state = State.UNLINKED
        region = rebuild(self._registry, record, window, memory_object, state)
        del self._records[record.number]
        self._back[record.number] = entry
        if record.number in self._again:
            self._again.remove(record.number)
        else:
            self.returned += 1
        if record.state is State.CURRENT:
            self._drop_name(record)
        self._registry.book.change(region)
        return region

    def give_way(self, region: Region) -> None:
        """Take note that a region has a name now: those that had it before do not get it back."""
        for record in self._current.get(region.name, [])[:]:
            if record.generation < region.generation:
                self._drop_name(record)
                self._retire_record(record, State.SUPERSEDED)
                self.leave(record)

    def clear(self) -> list[Record]:
        """Forget all: their addresses are free. Return the newest of each name that nobody has now."""
        lost = [record for name in self._current if (record := self.newest(name)) is not None]
        for record in lost:
            self.leave(record)
        for record, window in self._records.values():
            window.give(record.span)
            self._forget(record.offset)
        for span, window in self._boards:
            window.give(span)
        for table in (self._records, self._back, self._again, self._boards):
            table.clear()
        self._current.clear()
        self.named = self.named_bytes = 0
        return [record for record in lost if record.name not in self._registry.current]

    def _retire_record(self, record: Record, state: State) -> None:
        _, window = self._records[record.number]
        record = record._replace(state=state)
        self._records[record.number] = record, window
        self._retire(record)

    def _drop_name(self, record: Record) -> None:
        records = self._current[record.name]
        records.remove(record)
        self._count(-1, record)
        if not records:
            del self._current[record.name]

    def _count(self, number: int, record: Record) -> None:
        self.named += number
        self.named_bytes += number * record.capacity

    def _has_place(self, record: Record) -> bool:
        """Whether no arena has come above a name meanwhile, nor a name below an arena."""
        registry, owner = self._registry, record.owner
        try:
            if registry.arenas:
                check_above(record.name, registry.current, owner)
            if record.kind == KIND_ARENA:
                check_below(registry.names, registry.current, record.name, owner)
        except (RegionExists, RegionBusy, AccessDenied):
            return False
        return True


def is_of(record: Record, returned: Returned) -> bool:
    """Whether an object is the one of a record, with the size and the seals that it was published with.

    The identity alone decides which object it is. The rest holds for each object with that identity, unless
    its host was killed before it had sealed it.
    """
    if returned.identity != record.identity:
        return False
    if record.kind == KIND_ARENA:
        is_whole = record.capacity <= returned.size <= record.extent
        return is_whole and returned.seals & ARENA_SEALS == ARENA_SEALS
    seals = SEALS.get(record.seal, 0)
    if record.extent:
        seals &= ~F_SEAL_GROW
        is_whole = record.capacity <= returned.size <= record.extent and returned.size % PAGE == 0
        return is_whole and returned.seals & seals == seals
    return returned.size == record.capacity and returned.seals & seals == seals


def info_of(record: Record) -> RegionInfo:
    """Return what its host said last of a region."""
    return RegionInfo(
        name=record.name,
        region=record.number,
        generation=record.generation,
        state=record.state,
        address=record.span.address,
        size=record.size,
        capacity=record.capacity,
        uid=record.owner.uid,
        gid=record.owner.gid,
        mode=record.mode,
        seal=record.seal,
        backend=record.backend,
        leases=0,
        created_ns=record.created_ns,
        creator_pid=record.owner.pid,
        kind=record.kind,
        arena=NO_ARENA,
    )
