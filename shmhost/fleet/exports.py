"""The regions that this host announces: hashed in a thread, kept as long as they are announced. Waits.

A large one is announced before it is hashed, so that others take its chunks meanwhile; see `announcements`.

Only sealed regions of the own slice are announced: nobody can change them, so their hashes stay true. The
host has a lease of each. A generation that is replaced while others copy it stays until they have it, or ask
for it no more: so a name that changes faster than it can be copied is copied now and then. If it changes
faster than it can be hashed, it is announced with each that is hashed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial

from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.fleet.announcements import MAX_CHUNKS, Announcement
from shmhost.fleet.hashing import HASH_SIZE, chunk_count, root_of
from shmhost.fleet.plan import SlicedAllocator, slice_of
from shmhost.fleet.threads import Threads, hash_all, hashes, header_at
from shmprotocol.abi.header import KIND_DATA, KIND_OBJECTS, Header
from shmprotocol.errors import ShmError
from shmprotocol.kernel.constants import MIB
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.names import Backend, ChangeKind, Seal, State

LOG = logging.getLogger("shmhost")


OLDER = 4  # generations of a name that stay after they were replaced; if more are copied, one is given up
EARLY_FROM = 4 * MIB  # bytes of a region that is announced before it is hashed; less is hashed sooner
ASKED_S = 3.0  # since somebody has asked for a chunk: it is not being copied any more


class Rights(NamedTuple):
    """The owner of a region here, and its mode."""

    uid: int
    mode: int

    @classmethod
    def of(cls, region: Region) -> Rights:
        """Return those of a region, or of an arena."""
        return cls(region.owner.uid, region.mode)


class Export(NamedTuple):
    """A region that is announced, and the lease that keeps it."""

    announcement: Announcement
    leaves: list[bytes]
    region: Region
    lease: int
    early: bytes = b""  # the number by which its chunks were asked for before it was hashed

    def is_called(self, tree: bytes) -> bool:
        """Whether somebody asks for this one."""
        return tree in (self.announcement.tree, self.early)


class Exports:
    """The announced regions by name. `announce` and `end` tell the other hosts."""

    def __init__(
        self,
        registry: Registry,
        allocator: SlicedAllocator,
        prefixes: tuple[str, ...],
        threads: Threads,
        announce: Callable[[Announcement], None],
        end: Callable[[str, int], None],
    ) -> None:
        self.entries: dict[str, Export] = {}
        self.is_lost: Callable[[int], bool] = lambda _: False  # whether another host has a slice now
        self.renamed: Callable[[bytes, bytes], None] = lambda _early, _tree: None  # a payload has its hash
        self.staging: tuple[str, ...] = ()  # the starts of names that are not announced
        self.last: int = 0  # the generation of the latest `add`
        self._registry = registry
        self._allocator = allocator
        self._prefixes = prefixes
        self._threads = threads
        self._announce = announce
        self._end = end
        self._again: dict[str, Region] = {}  # that could not be hashed
        self._older: dict[str, list[Export]] = {}  # by name, the oldest first
        self._asked_s: dict[int, float] = {}  # by lease: when somebody has asked for a chunk of it
        self._pending: dict[str, tuple[Region, int]] = {}  # to be hashed, with their leases
        self._peer = Peer(os.geteuid(), os.getegid(), os.getpid())

    def note(self, kind: ChangeKind | State, region: Region) -> bool:
        """Take note of a change of a region; True: there is something to hash. Not in a registry's call."""
        if not region.name.startswith(self._prefixes) or region.name.startswith(self.staging):
            return False
        if kind is ChangeKind.PUBLISHED and region.state is State.CURRENT:
            if self._fits(region):
                self._drop_pending(region.name)
                self._pending[region.name] = region, self._registry.lease(region, self._peer)
                return True
            self.remove(region.name)
        elif kind is ChangeKind.UNLINKED and region.name not in self._registry.current:
            self.remove(region.name)
        elif kind is ChangeKind.CHANGED and region.state is State.CURRENT and self.has(region):
            self.change(region.name, Rights.of(region))
        return False

    async def add(self, name: str, region: Region, lease: int, rights: Rights) -> None:
        """Hash a region without a name of its own, and announce it; the lease is taken over."""
        export = await self._begun(name, region, lease, rights)
        # Several copies get their generations at the same time; those of a name must not be the same.
        self.last = self._registry.generations.next(max(self.last, region.generation))
        export = export._replace(announcement=export.announcement._replace(generation=self.last))
        await self._finish(export, lambda: rights)

    def resume(self, announcement: Announcement, leaves: list[bytes], region: Region) -> None:
        """Go on with what a host before has announced."""
        lease = self._registry.lease(region, self._peer)
        early = announcement.tree if announcement.is_early else b""
        self.entries[announcement.name] = Export(announcement, leaves, region, lease, early)

    def change(self, name: str, rights: Rights) -> None:
        """Announce another mode; the owner of what is announced stays."""
        export = self.entries.get(name)
        if export is not None and export.announcement.mode != rights.mode:
            announcement = export.announcement._replace(mode=rights.mode)
            self.entries[name] = export._replace(announcement=announcement)
            self._announce(announcement)

    def remove(self, name: str) -> None:
        """Announce that a name is gone. May be called for any name."""
        self._drop_pending(name)
        export = self.entries.pop(name, None)
        if export is not None:
            self._release(export.region, export.lease)
            self._end(name, export.announcement.generation)

    async def hash_pending(self) -> None:
        """Hash all that is to be hashed, and announce it."""
        while self._pending:
            name = next(iter(self._pending))
            region, lease = self._pending.pop(name)
            try:
                export = await self._begun(name, region, lease, Rights.of(region))
                await self._finish(export, partial(self._rights, name, region))
            except Exception as error:  # such as too many open files, or threads; the others go on
                if not self._again:
                    is_bug = not isinstance(error, OSError | ShmError | RuntimeError)
                    text = "fleet: %r is not announced yet, it is tried again: %s"
                    LOG.warning(text, name, error, exc_info=is_bug)
                self._again[name] = region

    def has(self, region: Region, *, hashed: bool = False) -> bool:
        """Whether a region is announced; also with its hash."""
        export = self.entries.get(region.name)
        if export is None or export.region is not region:
            return False
        return not (hashed and export.announcement.is_early)

    def left(self, is_value: Callable[[str], bool]) -> list[str]:
        """Return the names of a host before that are gone, or that this one does not export."""
        current = self._registry.current
        return [
            name
            for name in self.entries
            if not name.startswith(self._prefixes) or not (name in current or is_value(name))
        ]

    def find(self, name: str, tree: bytes) -> Export | None:
        """Return an announced region that somebody copies; None if it was replaced, and given up."""
        export = self.entries.get(name)
        several: list[Export] = [*self._older.get(name, ())]
        if export is not None:
            several.append(export)
        for each in several:
            if each.is_called(tree):
                self._asked_s[each.lease] = time.monotonic()
                return each
        return None

    def beat(self) -> bool:
        """Give up older generations that nobody copies any more; True: there is something to hash again."""
        again, self._again = self._again, {}
        current = self._registry.current
        regions = [region for name, region in again.items() if current.get(name) is region]
        have_pending = [self.note(ChangeKind.PUBLISHED, region) for region in regions]
        self._drop_idle()
        return any(have_pending)

    def _drop_idle(self) -> None:
        for name, several in list(self._older.items()):
            for export in [each for each in several if not self._is_copied(each)]:
                several.remove(export)
                self._release(export.region, export.lease)
            if not several:
                del self._older[name]

    def _fits(self, region: Region) -> bool:
        windows = tuple(window.range for window in self._allocator.windows)
        number = slice_of(windows, self._allocator.count, region.span)
        return (
            region.seal is Seal.FULL
            and region.backend is Backend.MEMFD
            and region.arena is None
            and region.kind in (KIND_DATA, KIND_OBJECTS)
            and number is not None
            and number in self._allocator.own
            # Of a slice that others have, too: their copies, back after a restart, look alike.
            and (region.mode & 0o222 != 0 or not self.is_lost(number))
            and chunk_count(region.room) <= MAX_CHUNKS
        )

    def _rights(self, name: str, region: Region) -> Rights | None:
        """Return the rights of a region now; None: its name has one that others cannot have, or is gone."""
        current = self._registry.current.get(name)
        return Rights.of(region) if current is not None and self._fits(current) else None

    async def _begun(self, name: str, region: Region, lease: int, rights: Rights) -> Export:
        """Return what is to be announced; a small one is hashed. An error gives up the lease."""
        try:
            with _reading(region) as descriptor:
                header, user, leaves = await self._threads.run(
                    _described, descriptor, region.room, rights.uid
                )
        except BaseException:
            self._release(region, lease)
            raise
        tree = root_of(region.room, leaves) if leaves else self._early(name, region)
        announcement = Announcement(
            *(name, region.generation, region.span.address, region.room, header.kind),
            *(header.data_size, header.root, header.root_size, header.metadata, header.metadata_size),
            *(region.created_ns, rights.mode, user, tree, not leaves),
        )
        return Export(announcement, leaves, region, lease, b"" if leaves else tree)

    def _early(self, name: str, region: Region) -> bytes:
        """Return by what a region is asked for before it is hashed; hashed once more, it is as before."""
        before = self.entries.get(name)
        early = before.early if before is not None and before.region is region else b""
        return early or secrets.token_bytes(HASH_SIZE)

    async def _finish(self, export: Export, rights: Callable[[], Rights | None]) -> None:
        """Announce what has begun, and once more when it is hashed. `rights`: None: it is not wanted.

        If that breaks off, the early announcement stays: the end of it would end older copies of its name.
        """
        now = rights()
        if now is None:
            self._release(export.region, export.lease)
            return
        name, region = export.announcement.name, export.region
        self._enter(export._replace(announcement=export.announcement._replace(mode=now.mode)))
        if export.leaves:
            return
        with _reading(region) as descriptor:
            is_wanted = partial(self._is_entered, export)  # else the next ones would wait for its hash
            leaves = await hash_all(self._threads, descriptor, region.room, is_wanted)
        if is_wanted():
            export = self.entries[name]
            tree = root_of(region.room, leaves)
            announcement = export.announcement._replace(tree=tree, is_early=False)
            self.entries[name] = export._replace(announcement=announcement, leaves=leaves)
            self.renamed(export.early, tree)
            self._announce(announcement)

    def _is_entered(self, export: Export) -> bool:
        now = self.entries.get(export.announcement.name)
        return now is not None and now.lease == export.lease

    def _enter(self, export: Export) -> None:
        name = export.announcement.name
        before = self.entries.get(name)
        self.entries[name] = export
        if before is not None and before.region is export.region:  # it is hashed once more
            self._release(before.region, before.lease)
        elif before is not None:
            self._keep(name, before)
        self._announce(export.announcement)

    def _keep(self, name: str, export: Export) -> None:
        """Keep a generation that was replaced, if it is being copied; of too many, not the idlest one."""
        older = self._older.setdefault(name, [])
        older.append(export)
        if not self._is_copied(export) or len(older) > OLDER:
            idlest = min(older, key=lambda each: self._asked_s.get(each.lease, 0.0))
            older.remove(idlest)
            self._release(idlest.region, idlest.lease)

    def _is_copied(self, export: Export) -> bool:
        return time.monotonic() < self._asked_s.get(export.lease, -ASKED_S) + ASKED_S

    def _drop_pending(self, name: str) -> None:
        pending = self._pending.pop(name, None)
        if pending is not None:
            self._release(*pending)

    def _release(self, region: Region, lease: int) -> None:
        self._asked_s.pop(lease, None)
        if lease in region.leases:
            self._registry.release(region, lease)


@contextlib.contextmanager
def _reading(region: Region) -> Iterator[int]:
    """Lend a descriptor of a region that stays open whatever becomes of it."""
    assert region.object is not None
    descriptor = os.dup(region.object.reader())
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _described(descriptor: int, size: int, uid: int) -> tuple[Header, str, list[bytes]]:
    """Return a region's header, the name of its owner, and the hashes of its chunks, unless it is large."""
    leaves = hashes(descriptor, size) if size < EARLY_FROM else []
    return header_at(descriptor), user_name(uid), leaves


def user_name(uid: int) -> str:
    """Return the name of a user, "" if it has none here. May wait."""
    try:
        return pwd.getpwuid(uid).pw_name[:64]
    except (KeyError, OSError):
        return ""
