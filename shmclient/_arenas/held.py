"""A value of an arena with what is known of it: the counterpart of a region's handle."""

from __future__ import annotations

from typing import Any, NoReturn, Self

from shmclient import _codecs as codecs
from shmclient._arenas.reader import Reader
from shmclient._arenas.values import decode, value_as
from shmclient._codecs.exporting import as_array, exported
from shmclient._codecs.libraries import LibraryName
from shmclient._pointers.roots import Root, pointer_type
from shmclient._process.copying import not_copied
from shmprotocol.errors import InvalidArgument, RegionClosed, RegionNotFound
from shmprotocol.kernel import address_space
from shmprotocol.native.builtins import Exporter, HeldValue


class ArenaValue(Exporter):
    """A value of an arena, as it was published: its bytes do not change while this, or a view of it, lives.

    Its owner publishes newer ones meanwhile, in other memory. `generation` counts in the whole arena.
    """

    def __init__(self) -> None:
        raise TypeError("an ArenaValue has no constructor: use client.open() or open() of an arena")

    _held: Any = None

    def _start(self, reader: Reader, name: str, held: Any) -> None:
        self._reader = reader
        self._short = name
        self._held = held
        self.name: str = f"{reader.name}/{name}"
        self.generation: int = held.generation
        self.published_ns: int = held.published_ns  # CLOCK_MONOTONIC: time.monotonic_ns() of any process

    @property
    def size(self) -> int:
        """The bytes of the data."""
        return int(self._hold().size)

    @property
    def address(self) -> int:
        """The address of the data, the same in every process that has not opened it `anywhere`."""
        return int(self._hold().address)

    @property
    def data(self) -> memoryview:
        """The bytes, read-only and not copied."""
        return memoryview(self._hold())

    @property
    def metadata(self) -> dict[str, Any]:
        """The owner's description of the data; empty for plain bytes."""
        description = self._hold().description
        return codecs.unpack_metadata(description) if description else {}

    def value(self, *, as_: LibraryName | None = None) -> Any:
        """Return what `get` returned for this generation: views that keep it."""
        held = self._hold()
        return decode(self._reader, held) if as_ is None else value_as(self._reader, held, as_)

    @property
    def array(self) -> Any:
        """The value, if it is a NumPy array. TypeError if it is not one."""
        codecs.check_array(self.name, self.metadata)
        return self.value()

    def root(self, ffi: Any, ctype: str) -> Any:
        """Return the root pointer as `ctype` of a cffi FFI, which keeps the value; as of a region."""
        held = self._hold()
        base = self._reader.grant.address
        root = Root(self.name, held.root, held.root_size, self.metadata, base, base + self._reader.moved_by)
        kind = pointer_type(ffi, ctype, root)
        return address_space.pointer_keeping(ffi, kind, held.root, held)

    @property
    def is_relocated(self) -> bool:
        """Whether the arena is mapped at an address other than its own, so that pointers need `translate`."""
        return bool(self._reader.moved_by)

    def translate(self, pointer: int) -> int:
        """Return the local address for an address of the arena; InvalidArgument if it is not inside."""
        grant = self._reader.grant
        if not 0 <= pointer - grant.address < grant.capacity:
            raise InvalidArgument(f"{pointer:#x} is not in the arena {self._reader.name!r}")
        return pointer + self._reader.moved_by

    def is_current(self) -> bool:
        """Whether no newer value has been published, nor the name removed. No system call."""
        entry = self._reader._entry(self._short)
        return entry is not None and entry[1] >> 2 == self.generation and self._reader.was_current()

    def close(self) -> None:
        """Let go of it; views keep it. May be called again."""
        self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> ArenaValue:
        return make_value(self._reader, self._short, self._hold())

    def __deepcopy__(self, memo: object) -> ArenaValue:
        return self.__copy__()  # its content does not change

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return the value for NumPy, as of a region."""
        return as_array(self.value(), repr(self), dtype, copy=copy)

    def __len__(self) -> int:
        """Return the length of the value, as of a region."""
        return len(self.value())

    def __bool__(self) -> bool:
        return True

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def _exported(self) -> Any:
        return exported(self.value(), repr(self))

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass its name, and open it in the other process")

    def __repr__(self) -> str:
        return f"<ArenaValue {self.name!r} generation {self.generation}{'' if self._held else ', closed'}>"

    def _hold(self) -> Any:
        if self._held is None:
            raise RegionClosed(f"the handle of {self.name!r} is closed")
        return self._held


def open_value(reader: Reader, name: str) -> ArenaValue:
    """Return a handle of the current value of a name in an arena. RegionNotFound."""
    value = hold_value(reader, name)
    if value is None:
        raise no_value(reader, name)
    return value


def no_value(reader: Reader, name: str) -> RegionNotFound:
    """Return the error for a name in an arena that has no value."""
    return RegionNotFound(f"the arena {reader.name!r} has no value {name!r}")


def hold_value(reader: Reader, name: str) -> ArenaValue | None:
    """Return a handle of the current value of a name in an arena, or None."""
    held = reader._hold(name)
    return None if held is None else make_value(reader, name, held)


def make_value(reader: Reader, name: str, held: HeldValue) -> ArenaValue:
    """Return a handle of a value that is held."""
    value = ArenaValue.__new__(ArenaValue)
    value._start(reader, name, held)
    return value
