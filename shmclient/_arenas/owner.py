"""An arena, as its owner has it: a mutable mapping whose values everyone with the right can read.

Does no I/O but on the arena's control socket, in one call of C: see `arena_owner.c`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex

from shmclient import _codecs as codecs
from shmclient._arenas.owner_errors import host_error, put_error
from shmclient._arenas.reader import names_in
from shmclient._arenas.values import TakesObjects, decode, kind_of
from shmclient._connection.outbox import Outbox
from shmclient._pointers.check import NO_LENGTHS, Lengths
from shmclient._process.address_space import ADDRESS_SPACE, region_label
from shmclient._process.copying import not_copied
from shmclient._regions.creation import creation_key
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import (
    ArenaFull,
    InvalidArgument,
    OutOfMemory,
    Unsupported,
)
from shmprotocol.native.builtins import ArenaOwner, Loan
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_name

if TYPE_CHECKING:
    from shmclient._arenas.building import ArenaBuilder

# Bytes for the objects of `new`: what they do not take is given back. Less, if no run is so long.
_DRAFT, _DRAFT_MIN = 64 << 20, 4096
_POPULATED = 64 << 20  # bytes at once: they take 40 ms, after which a signal is seen


class Arena(ArenaOwner, MutableMapping[str, Any], TakesObjects):
    """Memory that this process writes and others read, with no system call on either side.

    `arena[name] = value` copies a bytes-like object, an ndarray, or a dict of them, and publishes it in
    place of the last one; `arena[name]` is the value that readers get. Values live as long as any view of
    them: a reader who holds one keeps its memory from being used again. A `with` block closes the arena.
    Thread-safe; a forked child can use neither it nor values that its parent read here.
    ArenaFull: no room, or no name left; the text says who holds what.
    """

    _draft: ArenaBuilder | None = None  # of `new`
    _is_published = False

    def __init__(self) -> None:
        raise TypeError("an Arena is made by a client: `with client.arena(name, size=...) as arena`")

    def _begin(self, outbox: Outbox, request: m.Arena, reply: m.ArenaMade, owned: descriptors.Owned) -> None:
        self.name: str = request.name
        self.span: int = reply.span
        self._outbox = outbox
        self._number = reply.region
        self._descriptor = descriptors.Owned()  # of its memory, until it is kept
        self._is_open = True
        key = creation_key(reply.region)
        outbox.hold(key)
        end = partial(_end, outbox, key, owned)
        try:
            self._map(reply, owned, end)
        except BaseException:
            self._descriptor.close()
            end()
            self._give_up()
            raise

    def _map(self, reply: m.ArenaMade, owned: descriptors.Owned, end: Callable[[], None]) -> None:
        memory = self._descriptor = owned.take()
        mapping = ADDRESS_SPACE.map_writable(
            (self._outbox.origin, reply.region),
            memory[0],
            reply.address,
            reply.span,
            end,
            region_label(self.name, reply.generation),
            size=reply.size,
            is_sealed=True,
            inherited=False,
        )
        board = self._outbox.board
        self._memory: Any = mapping.memory, board  # until C keeps it
        self._line = board.line(reply.line) if board is not None else 0
        self._control = owned

    def _own(self, reply: m.ArenaMade, names: int, populate: bool) -> None:
        """Write the control page, and have the host publish the arena. Waits for the host."""
        numbers = (
            reply.address,
            reply.address,
            reply.span,
            reply.size,
            names,
            reply.region,
            self._line,
            self._control[0],  # of which it has a copy: this one says how long it is mapped
        )
        error = self._make(*numbers, self._memory)
        self._memory = None
        if error == errno.ENOSPC:
            raise InvalidArgument(
                f"{reply.size} bytes are too few for {names} names: each takes about 200 bytes"
            )
        if not error:
            if populate:
                self._populate_all(reply.size)
            error = self._ready()
        if error:
            raise host_error(error, f"publish the arena {self.name!r}")
        self._is_published = True
        if self._outbox.home is not None:
            self._keep(self._outbox.home, reply.region, self._descriptor[0])
        self._descriptor.close()
        self._remember_values()

    def _populate_all(self, size: int) -> None:
        for start in range(HEADER_SIZE, size, _POPULATED):  # the header page is read-only here
            error = self._populate(start, min(start + _POPULATED, size))
            if error == errno.EINVAL:
                raise Unsupported("an arena is populated by Linux 5.14 and later: make it without populate")
            if error:
                raise OutOfMemory(
                    f"the machine has no memory for the {size} bytes of the arena {self.name!r}: "
                    f"{os.strerror(error)} after {start}; make it smaller, or let it grow to a max_size"
                )

    # A mutable mapping: __getitem__, __setitem__ and __delitem__ are in C.

    def __iter__(self) -> Iterator[str]:
        return names_in(self)

    def __len__(self) -> int:
        return int(self._counts()[0])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._hold(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name, or the default."""
        return self._get(name, default)

    def put(self, name: str, value: object) -> int:
        """Copy a value and publish it; return its generation, which counts in the whole arena."""
        generation: int = self._put(name, value)
        return generation

    def put_many(self, values: Mapping[str, object] | Iterable[tuple[str, object]]) -> None:
        """Put several values, in their order. An error ends it; the values before it are published."""
        items = dict(values)
        self._put_many(list(items), list(items.values()))

    @contextlib.contextmanager
    def loan(self, name: str, shape: SupportsIndex | Sequence[int], dtype: Any = None) -> Iterator[Any]:
        """Give an array, or without a dtype `shape` bytes, to be filled in place; the block publishes it.

        Its content is not zeroed. An exception in the block undoes it. **Do not write to it after the
        block**: readers have it then, and later its memory is used for other values.
        """
        self._check(name)
        loan, array = self._lend(name, shape, dtype)
        try:
            yield array
            loan.publish(name)
        finally:
            loan.discard()  # nothing, if it is published
            del loan, array  # an error has this frame as long as it is kept: not the mapping

    @contextlib.contextmanager
    def build(self, name: str, size: int) -> Iterator[ArenaBuilder]:
        """Build a structure with pointers in `size` bytes, in place; the block publishes it.

        An exception in the block undoes it. PointerEscapes: a pointer leads out of the value.
        """
        builder = self._builder(name, size)
        try:
            yield builder
            builder.publish()
        finally:
            builder.discard()

    def new(self, ffi: Any, ctype: str, init: Any = None) -> Any:
        """Make an object for the next `set_root`, as `ffi.new(ctype, init)` would in private memory.

        All objects since the last `set_root` are in one block of at most 64 MiB, and a quarter of the arena:
        what they do not take is given back by `set_root`. They are for one thread. `build` has a size of its
        own.
        """
        if self._draft is None:
            self._draft = self._new_draft()
        return self._draft.new(ffi, ctype, init)

    def set_root(self, name: str, pointer: Any, *, lengths: Lengths = NO_LENGTHS) -> int:
        """Publish what `new` has made under a name; readers start at the pointer. Errors as for `build`."""
        self._check(name)
        if self._draft is None:
            raise InvalidArgument(f"{name!r} has nothing to be published: make it with new()")
        draft, self._draft = self._draft, None
        try:
            draft.name = f"{self.name}/{name}"  # for errors
            draft.set_root(pointer, lengths=lengths)
            return draft.publish(name)
        finally:
            draft.discard()

    def remove(self, name: str) -> None:
        """Remove a name and its value. KeyError: there is none."""
        del self[name]

    def grow(self, size: int) -> None:
        """Let the arena have at least `size` bytes, up to its `max_size`. QuotaExceeded, InvalidArgument."""
        error = self._grow(size)
        if error:
            raise host_error(error, f"let the arena {self.name!r} have {size} bytes of {self.span}")

    @property
    def size(self) -> int:
        """The bytes of its memory, index and all."""
        return int(self._state()[0])

    def close(self) -> None:
        """Stop being the owner. Its values stay readable, unless the arena was made with keep=False."""
        self._is_open = False
        self._descriptor.close()
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.discard()
        self._close()
        self._give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if getattr(self, "_is_open", False) and not is_finalizing():
            self.close()

    def _give_up(self) -> None:
        """Have the host free the name if the arena was not published: the end of the socket is seen later."""
        if not self._is_published:
            self._is_published = True
            self._outbox.give_back(None, m.Abort(0, self._number, False))

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass its name, and open it in the other process with open_arena()")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<Arena {self.name!r}, closed>"
        return f"<Arena {self.name!r}, {len(self)} names, {self._state()[1]} of {self.size} bytes in use>"

    def _builder(self, name: str, size: int) -> ArenaBuilder:
        from shmclient._arenas.building import ArenaBuilder

        self._check(name)
        return ArenaBuilder(self, name, size)

    def _new_draft(self) -> ArenaBuilder:
        size = min(_DRAFT, self.size // 4)
        while True:
            try:
                return self._builder("new", size)
            except ArenaFull:
                if size < 2 * _DRAFT_MIN:
                    raise
                size //= 2

    def _lend(self, name: str, shape: SupportsIndex | Sequence[int], dtype: Any) -> tuple[Loan, Any]:
        if dtype is None:
            loan = self._loan(int(shape), b"", 0, name)  # type: ignore[arg-type]
            return loan, memoryview(loan)
        import numpy as np

        lengths = (
            (int(shape),) if isinstance(shape, SupportsIndex) else tuple(int(length) for length in shape)
        )
        description = codecs.describe_array(dtype, lengths)
        packed = codecs.pack_metadata(description)
        loan = self._loan(math.prod(lengths) * np.dtype(dtype).itemsize, packed, 0, name)
        return loan, np.ndarray(lengths, dtype, memoryview(loan))

    def _put_other(self, name: str, value: Any) -> int:
        """Put what C has not seen the like of."""
        try:
            encoded = codecs.encode(value)
        except TypeError as error:
            raise TypeError(f"{name!r}: {error}") from None
        kind = kind_of(value)
        if kind is not None:
            self._kind(kind[0], encoded.metadata, kind[1])
        if encoded.pointers:
            return self._put_pointed(name, encoded)
        loan = self._loan(encoded.size, encoded.metadata, 0, name)
        try:
            encoded.write(loan)
            generation: int = loan.publish(name)
            return generation
        finally:
            loan.discard()
            del loan  # as above

    def _put_pointed(self, name: str, encoded: codecs.Encoded) -> int:
        """Put what has pointers, and perhaps a root: its description goes behind it."""
        description = encoded.metadata
        loan = self._loan(encoded.size + len(description) + 8, b"", 0, name)
        try:
            encoded.move(loan.address)
            encoded.write(loan)
            root = encoded.root_at(loan.address)
            generation: int = loan.publish(name, *root, encoded.size, description)
            return generation
        finally:
            loan.discard()
            del loan  # as above

    def _check(self, name: str) -> None:
        check_name(f"{self.name}/{name}")

    def _decode(self, held: Any) -> Any:
        return decode(self, held)

    def _fail(self, error: int, name: object, size: int = 0) -> NoReturn:
        """Raise the error of a value that needs a block of so many bytes; 0: it has one."""
        raise put_error(self, error, name, size)


def make_arena(outbox: Outbox, request: m.Arena, reply: m.ArenaMade, owned: descriptors.Owned) -> Arena:
    """Return an arena, mapped; it owns the descriptors from then on."""
    arena = Arena.__new__(Arena)
    arena._begin(outbox, request, reply, owned)
    return arena


def _end(outbox: Outbox, key: object, control: descriptors.Owned) -> None:
    """Take note that nothing of an arena is mapped for writing any more: the host can use its addresses."""
    control.close()
    outbox.give_back(key)


def own(arena: Arena, reply: m.ArenaMade, names: int, populate: bool) -> None:
    """Have an arena published, after its pages are made if that is asked for; on an error it is closed."""
    try:
        arena._own(reply, names, populate)
    except BaseException:
        arena.close()
        raise
