"""The messages between hosts of a fleet, as msgpack and back. Pure.

Every byte from a peer is untrusted: types, lengths and ranges are checked; RemoteProtocolError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from shmhost.fleet.config import NAME
from shmhost.fleet.plan import MAX_SLICES, Windows
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.tuples import NamedTuple

FORM = 3  # of these messages: hosts of another one are refused
MAX_MESSAGE = 2**20  # bytes, but for chunks
MAX_REASON = 500
ID_DIGITS = 16
MAX_WINDOWS = 64
T = TypeVar("T")


class Card(NamedTuple):
    """A host, in its own words. `address` is its identity and that of its process, as in keys."""

    form: int
    address: str
    name: str
    windows: Windows
    slices: int
    page: int
    abi: tuple[int, int]
    held: int | None  # its slice
    fixed: bool  # whether that was set by number
    news: int  # of the latest of its news

    @property
    def host(self) -> str:
        """Its identity, which a restart does not change."""
        return self.address[:ID_DIGITS]


class Claim(NamedTuple):
    """A host asks for a slice."""

    address: str
    number: int
    fixed: bool


def difference(own: Card, other: Card) -> str:
    """Return why two hosts cannot be in one fleet; "" if they can."""
    pairs = (
        ("speaks form {} of the fleet's messages", own.form, other.form),
        ("has version {} of the memory ABI", own.abi, other.abi),
        ("has pages of {} bytes", own.page, other.page),
        ("has the windows {}", _shown(own.windows), _shown(other.windows)),
        ("cuts its windows into {} slices", own.slices, other.slices),
    )
    for text, ours, theirs in pairs:
        if ours != theirs:
            return f"{other.name!r} {text.format(theirs)}, and {own.name!r} has {ours}"
    if own.host == other.host:
        return f"{other.name!r} has the identity of {own.name!r}: two hosts share the file SOCKET.fleet"
    return ""


def _shown(windows: Windows) -> str:
    return ", ".join(f"{base:#x}:{size}" for base, size in windows)


def pack(*values: object) -> bytes:
    """Return values as a message."""
    return bytes(msgpack.packb(values, use_bin_type=True))


def unpack(data: bytes, limit: int = MAX_MESSAGE) -> tuple[Any, ...]:
    """Return the values of a message; RemoteProtocolError."""
    if len(data) > limit:
        raise RemoteProtocolError(f"{len(data)}-byte message of the fleet is over {limit}")
    try:
        values = msgpack.unpackb(data, use_list=False, strict_map_key=True, raw=False)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"not a message of the fleet: {error!r:.100}") from None
    if type(values) is not tuple:
        raise RemoteProtocolError(f"not a message of the fleet: {values!r:.80}")
    return values


def fields(values: tuple[Any, ...], *checks: Callable[[Any], T]) -> tuple[Any, ...]:
    """Return the first values, each as its check returns it; later ones are of a newer version."""
    if len(values) < len(checks):
        raise RemoteProtocolError(f"{len(values)} fields of a message of the fleet, not {len(checks)}")
    return tuple(check(value) for check, value in zip(checks, values, strict=False))


def number(low: int, high: int) -> Callable[[object], int]:
    """Return a check for whole numbers from `low` to `high`."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise RemoteProtocolError(f"{value!r:.40} is not a number from {low} to {high}")
        return value

    return check


def text(longest: int) -> Callable[[object], str]:
    """Return a check for texts of at most so many characters."""

    def check(value: object) -> str:
        if type(value) is not str or len(value) > longest:
            raise RemoteProtocolError(f"{value!r:.40} is not a text of at most {longest} characters")
        return value

    return check


def flag(value: object) -> bool:
    """Check a bool."""
    if type(value) is not bool:
        raise RemoteProtocolError(f"{value!r:.40} is not true or false")
    return value


def name(value: object) -> str:
    """Check the name of a host."""
    if type(value) is not str or not NAME.fullmatch(value):
        raise RemoteProtocolError(f"{value!r:.80} is not the name of a host")
    return value


def is_address(value: object) -> bool:
    """Whether a value is the address of a host: its identity and its process, in hexadecimal digits."""
    return _is_hexadecimal(value, 2 * ID_DIGITS)


def address(value: object) -> str:
    """Check the address of a host."""
    if not is_address(value):
        raise RemoteProtocolError(f"{value!r:.80} is not the address of a host")
    return str(value)


def _identity(value: object) -> str:
    if not _is_hexadecimal(value, ID_DIGITS):
        raise RemoteProtocolError(f"{value!r:.80} is not the identity of a host")
    return str(value)


def _is_hexadecimal(value: object, digits: int) -> bool:
    return type(value) is str and len(value) == digits and not set(value) - set("0123456789abcdef")


U64 = number(0, 2**64 - 1)
COUNT = number(0, 2**31)
SLICE = number(0, MAX_SLICES - 1)


def _pair(value: object) -> tuple[int, int]:
    if type(value) is not tuple or len(value) != 2:
        raise RemoteProtocolError(f"{value!r:.40} is not a pair of numbers")
    return U64(value[0]), U64(value[1])


def _windows(value: object) -> Windows:
    if type(value) is not tuple or len(value) > MAX_WINDOWS:
        raise RemoteProtocolError(f"{value!r:.40} is not a list of windows")
    return tuple(_pair(each) for each in value)


def _slice_or_none(value: object) -> int | None:
    return None if value is None else SLICE(value)


def card_of(values: tuple[Any, ...]) -> Card:
    """Return a card; of another form, only the fields that all forms have are looked at."""
    form = fields(values, COUNT, address, name)
    if form[0] != FORM:
        return Card(form[0], form[1], form[2], (), 0, 0, (0, 0), None, False, 0)
    checks = (COUNT, address, name, _windows, COUNT, COUNT, _pair, _slice_or_none, flag, U64)
    return Card(*fields(values, *checks))


def identities_of(values: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the identities of hosts."""
    return tuple(_identity(value) for value in values)


def claim_of(values: tuple[Any, ...]) -> Claim:
    """Return a claim."""
    return Claim(*fields(values, address, SLICE, flag))
