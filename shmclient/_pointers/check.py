"""The pointer check: pointers in shared memory must lead to shared memory that lasts as long.

A pointer to private memory is valid only in the process that wrote it. The check is the counterpart of Go's
cgocheck, with two differences: it can be switched off only for a block, and only for the caller.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from shmclient._pointers import lookup as _places
from shmclient._pointers.lookup import SharedPlace
from shmclient._pointers.plan import Plan, Pointed, Stray, root_count
from shmprotocol.errors import BadRegion, InvalidArgument, OutOfMemory, PointerEscapes

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
    memory = _places.shared_place(slot)
    if memory is None:
        return None
    if not memory.first_writable <= slot < memory.end:
        raise InvalidArgument(f"the slot {slot:#x} is in {memory.label}, and cannot be written there")
    if is_checking() and address and not _lasts(address, size, memory):
        raise PointerEscapes(
            f"the slot {slot:#x} in {memory.label} would hold {address:#x}, which is "
            f"{_places.describe(address)}: in other processes this address has other memory, or none. "
            "Pin a part of the same region or of a published one, or store it under unchecked() if no other "
            "process follows it"
        )
    return memory


def _lasts(address: int, size: int, memory: SharedPlace) -> bool:
    if memory.start <= address and address + size <= memory.end:
        return True
    target = _places.shared_place(address)
    return target is not None and target.is_lasting


def check_root(pointed: Pointed, item: Any, lengths: Lengths) -> int:
    """Check what a root of a cffi type leads to; as `check_pointers`."""
    outcome = Plan(item, lengths, root_count(pointed, item)).check(pointed)
    if isinstance(outcome, Stray):
        raise PointerEscapes(
            f"{outcome.path} in region {pointed.name!r} (the slot {outcome.slot:#x}) holds "
            f"{outcome.address:#x}, which is {_what(outcome.address, pointed)}: each pointer must lead to a "
            "whole object of the same region, which all its readers have mapped"
        )
    if outcome == -errno.ELOOP:
        raise BadRegion(f"objects of one type overlap in {pointed.name!r}: a pointer leads into an object")
    if outcome == -errno.EINVAL:
        raise BadRegion(f"the root of {pointed.name!r} is not aligned for {item.cname!r}, or not inside")
    if outcome == -errno.E2BIG:
        raise BadRegion(
            f"the pointers of {pointed.name!r} lead to the same objects again and again, 64 times on "
            "average: if that is right, publish it under unchecked()"
        )
    if outcome < 0:
        raise OutOfMemory(f"no memory is left to check the pointers of {pointed.name!r}")
    return outcome


def _what(address: int, pointed: Pointed) -> str:
    if pointed.base <= address < pointed.base + pointed.size:
        return f"inside of {pointed.name!r}, but not aligned, or too near to its end"
    return _places.describe(address)
