"""The pointer check: what is reached through shared memory must be shared memory that lasts as long.

A pointer to private memory is valid in the process that wrote it, and in no other. Our counterpart of Go's
cgocheck, with two differences: it can be switched off for a block alone, and it is never off for anyone else.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from shmclient._pointers import lookup as _places
from shmclient._pointers.lookup import SharedPlace
from shmclient._pointers.plan import Plan, Pointed, Stray, is_complete, root_count
from shmprotocol.errors import BadRegion, InvalidArgument, OutOfMemory, PointerEscapes


class HasPointers(Protocol):
    """A region, or a builder."""

    def pointed(self) -> Pointed:
        """Return its memory and its root."""
        ...


# Of arrays behind pointers: {"struct table.rows": "row_count"}, a field of the same structure or a number.
Lengths = Mapping[str, str | int]
NO_LENGTHS: Lengths = {}

_is_unchecked: ContextVar[bool] = ContextVar("shmclient_unchecked", default=False)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Switch the pointer checks off for a block: of this thread or task, and of tasks that it starts.

    For pointers that no other process follows, as in an iovec in shared memory. Blocks nest; an exception
    ends a block as well.
    """
    token = _is_unchecked.set(True)
    try:
        yield
    finally:
        _is_unchecked.reset(token)


def is_checking() -> bool:
    """Whether the checks are on here."""
    return not _is_unchecked.get()


def check_store(slot: int, address: int, size: int) -> SharedPlace | None:
    """Check the store of a pinned buffer's address into a slot; return the shared memory that the slot is in.

    None when the slot is in private memory, where any address may be. PointerEscapes: the buffer is neither
    in the same shared memory nor in a published region, which its pin leases. InvalidArgument: it may not be
    written.
    """
    place = _places.shared_place(slot)
    if place is None:
        return None
    if not place.first_writable <= slot < place.end:
        raise InvalidArgument(f"the slot {slot:#x} is in {place.label}, and cannot be written there")
    if is_checking() and address and not _lasts(address, size, place):
        raise PointerEscapes(
            f"the slot {slot:#x} in {place.label} would hold {address:#x}, which is "
            f"{_places.describe(address)}: other processes would find something else there, or nothing. "
            "Pin a part of the same region or of a published one, or store it under unchecked() if no other "
            "process follows it"
        )
    return place


def _lasts(address: int, size: int, place: SharedPlace) -> bool:
    if place.start <= address and address + size <= place.end:
        return True
    target = _places.shared_place(address)
    return target is not None and target.is_lasting


def check_pointers(region: HasPointers, ffi: Any, ctype: str, *, lengths: Lengths = NO_LENGTHS) -> int:
    """Walk all that can be reached from the root of a region by its cffi types; return the count of objects.

    Takes a region, or a builder with a root. `ctype` is what the root is, as `"struct node *"`. Each pointer
    must be NULL or lead to a whole, aligned object in the same region: another region may be gone before it.
    The first that does not raises PointerEscapes, with its path from the root. Behind a pointer lies one
    object, or as many as `lengths` says, as `{"struct table.rows": "row_count"}`: a field of the same
    structure or a number; where it is 0, the pointer is not looked at. Unions are not followed, nor an array
    without a length at the end of a structure; of an anonymous union of structures, name the union.
    BadRegion: no root, or objects of one type overlap. InvalidArgument: a length of what is not reached.
    Takes some 0.1 us, and up to 96 bytes meanwhile, for each object.
    """
    wanted, pointed = ffi.typeof(ctype), region.pointed()
    if wanted.kind != "pointer" or not is_complete(wanted.item):
        raise TypeError(f"a root is a pointer to a type of known size, as 'struct node *', not {ctype!r}")
    if not pointed.root or pointed.root_size < ffi.sizeof(wanted.item):
        raise BadRegion(
            f"{pointed.name!r} has no root of the {ffi.sizeof(wanted.item)} bytes of {wanted.item.cname!r}: "
            f"its root has {pointed.root_size}"
        )
    return check_root(pointed, wanted.item, lengths)


def check_root(pointed: Pointed, item: Any, lengths: Lengths) -> int:
    """Check what a root of a cffi type leads to; as `check_pointers`."""
    outcome = Plan(item, lengths, root_count(pointed, item)).check(pointed)
    if isinstance(outcome, Stray):
        raise PointerEscapes(
            f"{outcome.path} in region {pointed.name!r} (the slot {outcome.slot:#x}) holds "
            f"{outcome.address:#x}, which is {_what(outcome.address, pointed)}: each pointer must lead to a "
            "whole object of the same region, so that other processes have it too, for as long"
        )
    if outcome == -errno.ELOOP:
        raise BadRegion(f"objects of one type overlap in {pointed.name!r}: some pointer leads into an object")
    if outcome == -errno.EINVAL:
        raise BadRegion(f"the root of {pointed.name!r} is not aligned for {item.cname!r}, or not inside")
    if outcome == -errno.E2BIG:
        raise BadRegion(
            f"the pointers of {pointed.name!r} lead to the same objects over and over again, 64 times on the "
            "average: if that is right, publish it under unchecked()"
        )
    if outcome < 0:
        raise OutOfMemory(f"no memory is left to check the pointers of {pointed.name!r}")
    return outcome


def _what(address: int, pointed: Pointed) -> str:
    if pointed.base <= address < pointed.base + pointed.size:
        return f"inside of {pointed.name!r}, but not aligned, or too near to its end"
    return _places.describe(address)
