"""The values of an arena as a mapping: the common part of the sync and the async view. Does no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shmclient._arenas.held import ArenaValue, hold_value, open_value
from shmclient._arenas.reader import Reader, names_in
from shmclient._codecs import loaded
from shmclient._codecs.libraries import LibraryName
from shmprotocol.tuples import NamedTuple


class ArenaChange(NamedTuple):
    """A name of an arena that has another value since the last look, or with `is_removed` none."""

    name: str
    generation: int
    is_removed: bool


class BaseArenaView(Mapping[str, Any]):
    """The values of an arena, by their short names; look-ups make no system call."""

    def __init__(self) -> None:
        raise TypeError(f"a {type(self).__name__} has no constructor: use client.open_arena()")

    def _begin(self, client: Any, reader: Reader, anywhere: bool) -> None:
        self.name: str = reader.name
        self._client = client
        self._reader = reader
        self._anywhere = anywhere

    def _now(self) -> Reader:
        """Return the reader of the arena, as far as it is known which one is current."""
        return self._reader

    def __getitem__(self, name: str) -> Any:
        return self._now()[name]

    def get(self, name: str, default: Any = None, *, as_: LibraryName | None = None) -> Any:
        """Return the value of a name, or the default; `as_` is as for `shmclient.Client.get`."""
        if as_ is None:
            return self._now()._get(name, default)
        value = hold_value(self._now(), name)
        return default if value is None else value.value(as_=as_)

    def get_object(self, name: str, *, allow_pickle: bool = False) -> Any:
        """Return an object that was put; KeyError, and errors as of `shmclient.Client.get_object`."""
        return loaded(self[name], allow_pickle=allow_pickle)

    def open(self, name: str) -> ArenaValue:
        """Return a handle of the current value of a name: with its generation, its time, its root."""
        return open_value(self._now(), name)

    def __iter__(self) -> Iterator[str]:
        return names_in(self._now())

    def __len__(self) -> int:
        return int(self._now()._counts()[0])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._now()._hold(name) is not None

    @property
    def generation(self) -> int:
        """The generation of the last change in the arena."""
        return int(self._now()._counts()[2])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self._reader._counts()[0]} names>"


def changes_since(reader: Reader, since: int) -> list[ArenaChange]:
    """Return the changes after a generation, in their order; of several of a name, the newest."""
    changed = sorted(reader._changed(since), key=lambda change: change[1])
    return [ArenaChange(name, generation, not is_present) for name, generation, is_present in changed]
