"""Segments: the classes of `multiprocessing.shared_memory`, over regions that several write."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import struct
from collections.abc import Callable, Iterable
from multiprocessing import shared_memory as _original
from typing import TYPE_CHECKING, Any, TypeVar

from shmclient._shared.hosts import ask
from shmprotocol.errors import RegionBusy, RegionExists

if TYPE_CHECKING:
    from shmclient._regions.region import RegionHandle
    from shmclient.client import Client

T = TypeVar("T", int, float, bool, str, bytes, None)

_SHM_NAME_PREFIX = "/psm_"
_USE_POSIX = True  # the original's word for its way on Linux, whose behaviour this is
_IMPORTED_IN = os.getpid()
# Typeshed does not have these: the formats of `struct` by type, and the code of a value's type.
_list: Any = _original.ShareableList
_formats, _code_of, _ALIGNMENT = _list._types_mapping, _list._extract_recreation_code, 8  # bytes


def _make_filename() -> str:
    """Return a name that nobody has, as the original makes them."""
    return _SHM_NAME_PREFIX + secrets.token_hex(4)


def _region_name(name: str) -> str:
    """Return the name of a segment's region: each user has names of their own."""
    part = name.lstrip("/").replace("%", "%25").replace("/", "%2F")
    part = part.replace(".", "%2E") if part in (".", "..") else part
    return f"shared_memory/{os.geteuid()}/{part}"


def _is_first() -> bool:
    """Whether this is not a worker. The segments of a worker may be for its parent, and outlive it."""
    return multiprocessing.parent_process() is None and os.getpid() == _IMPORTED_IN


class SharedMemory:
    """A segment that processes share by its name, with `buf` over its bytes; as the standard library's.

    With `create` it is new, of zeros: FileExistsError if its name is taken, MemoryError if there is no room.
    Without, it has to exist: FileNotFoundError. A segment lives until `unlink`, or until the process that
    made it ends, in whatever way, unless that is a worker of multiprocessing or `track` is False. Those who
    have it open keep it. Segments are their user's own.
    """

    _name: str | None = None
    _region: RegionHandle | None = None
    _buf: memoryview | None = None
    _size = 0
    _flags = os.O_RDWR
    _mode = 0o600
    _track = True
    _prepend_leading_slash = True

    def __init__(
        self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True
    ) -> None:
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = track
        region = self._create_any(size) if name is None else self._create_or_open(name, size)
        self._region, self._size, self._buf = region, region.size, region.data

    def _create_any(self, size: int) -> RegionHandle:
        while True:
            try:
                return self._create_or_open(_make_filename().removeprefix("/"), size)
            except FileExistsError:
                continue

    def _create_or_open(self, name: str, size: int) -> RegionHandle:
        region_name = _region_name(name)
        if self._flags & os.O_EXCL:
            region = ask(lambda client: _create(client, region_name, size, self._mode, self._track))
        else:
            region = ask(lambda client: client.open(region_name, anywhere=True))
        self._name = "/" + name if self._prepend_leading_slash else name
        return region

    @property
    def buf(self) -> memoryview:
        """A memoryview of the bytes; None once it is closed."""
        return self._buf  # type: ignore[return-value]  # as typeshed has it

    @property
    def name(self) -> str:
        """The name by which other processes open it."""
        assert self._name is not None
        return self._name.removeprefix("/") if self._prepend_leading_slash else self._name

    @property
    def size(self) -> int:
        """The bytes that its creator asked for."""
        return self._size

    def close(self) -> None:
        """Give it up here; the segment lives on, and so do views of `buf` and arrays over it.

        The original releases `buf`, and unmaps what a NumPy array over it uses: its next look is SIGSEGV.
        """
        self._buf = None
        if self._region is not None:
            self._region.close()
            self._region = None

    def unlink(self) -> None:
        """Remove the name; those who have the segment open keep it. FileNotFoundError: it is gone already."""
        if self._name:
            name = _region_name(self._name)
            ask(lambda client: client.unlink(name))

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., SharedMemory], tuple[str, bool, int]]:
        return self.__class__, (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"


def _create(client: Client, name: str, size: int, mode: int, is_tracked: bool) -> RegionHandle:
    keep = not is_tracked or not _is_first()
    try:
        with client.create(name, size, mode=mode, seal="shared", replace=False, keep=keep) as builder:
            pass
    except RegionBusy:  # somebody creates it now
        raise RegionExists(
            f"another process makes {name!r} at this moment: open it, or take another name"
        ) from None
    assert builder.region is not None
    return builder.region


class ShareableList(_original.ShareableList[T]):
    """A list of fixed length in a segment, `shm`; as the standard library's, in the same format."""

    shm: SharedMemory  # type: ignore[assignment]

    def __init__(self, sequence: Iterable[T] | None = None, *, name: str | None = None) -> None:
        if sequence is None and name is not None:
            self._open(name)
        else:
            self._create(list(sequence or ()), name)

    def _open(self, name: str) -> None:
        self.shm = SharedMemory(name)
        self._list_len = len(self)
        self._allocated_offsets = list(struct.unpack_from(f"{self._list_len + 1}q", self.shm.buf, 8))

    def _create(self, items: list[Any], name: str | None) -> None:
        values = [item.encode() if isinstance(item, str) else item for item in items]
        formats = list(map(_format_of, items, values))
        ends = [0]
        for form in formats:
            ends.append(ends[-1] + (int(form[:-1]) if form.endswith("s") else _ALIGNMENT))
        self._list_len, self._allocated_offsets = len(items), ends
        codes = list(map(_code_of, items))
        # `struct` aligns to native sizes, as the original has it: each part begins at a multiple of 8.
        parts = f"{len(items) + 2}q", "".join(formats), "8s" * len(items), f"{len(items)}b"
        self.shm = SharedMemory(name, create=True, size=struct.calcsize("".join(parts)))
        buf, at = self.shm.buf, 8 * (len(items) + 2)
        struct.pack_into(parts[0], buf, 0, len(items), *ends)
        struct.pack_into(parts[1], buf, at, *values)
        struct.pack_into(parts[2], buf, at + ends[-1], *[form.encode() for form in formats])
        struct.pack_into(parts[3], buf, at + ends[-1] + 8 * len(items), *codes)


def _format_of(item: Any, value: Any) -> str:
    """Return the format for an item. The original counts characters; they may take more bytes."""
    form: str = _formats[type(item)]
    if not isinstance(value, bytes):
        return form
    return form % max(_ALIGNMENT * (len(item) // _ALIGNMENT + 1), -(-len(value) // _ALIGNMENT) * _ALIGNMENT)
