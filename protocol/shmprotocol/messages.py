"""The messages of the wire: typed, frozen, checked on the way in and on the way out.

A message is a msgpack array `[tag, descriptors, id, field...]`. A later minor version may append
fields: what comes after the known ones is ignored. Knows no socket and no memory.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from shmprotocol.errors import InvalidArgument, LocalProtocolError, RemoteProtocolError

VERSION = 1
U64_MAX = 2**64 - 1
# SCM_MAX_FD of the kernel is 253; 64 keeps a peer's undelivered descriptors far from its limit.
MAX_DESCRIPTORS = 64
# No message has longer arrays; without it, a few nested headers would claim gigabytes.
MAX_ARRAY = 4096
NAME_MAX = 255
METADATA_MAX = 512 * 1024  # half a frame: what describes a region is not the place for its data
SEALS = ("full", "writer")
BACKENDS = ("memfd", "shm")

Check = Callable[[object], Any]


def check_name(name: str) -> str:
    """Return the name, or raise InvalidArgument: 1-255 bytes of UTF-8, no empty, `.` or `..` part."""
    encoded = name.encode("utf-8", "surrogatepass")
    if not 1 <= len(encoded) <= NAME_MAX:
        raise InvalidArgument(f"a name has 1 to {NAME_MAX} bytes, not {len(encoded)}: {name[:40]!r}")
    if not name.isprintable() and any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in name):
        raise InvalidArgument(f"a name has no control characters: {name!r}")
    if any(0xD800 <= ord(c) < 0xE000 for c in name):
        raise InvalidArgument(f"a name is UTF-8: {name!r}")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise InvalidArgument(
                f"{name!r} has the part {part!r}: use non-empty parts between single slashes"
            )
    return name


@dataclass(frozen=True, slots=True)
class Message:
    """What every message has: its tag on the wire, and the id that ties a reply to its request."""

    tag: ClassVar[int]
    checks: ClassVar[tuple[Check, ...]]
    names: ClassVar[tuple[str, ...]]

    id: int

    def descriptors(self) -> int:
        """How many descriptors ride on the frame of this message."""
        return 0


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """A region as `list` and `stat` tell of it. Sizes are bytes; `created_ns` is CLOCK_REALTIME."""

    name: str
    region: int
    generation: int
    state: str  # "creating", "current", "superseded" or "unlinked"
    address: int
    size: int
    capacity: int
    uid: int
    gid: int
    mode: int
    seal: str
    backend: str
    leases: int
    created_ns: int
    creator_pid: int


@dataclass(frozen=True, slots=True)
class Grant:
    """One region opened: the lease, and where to map it. `lease` 0: what you hold is current.

    Every other grant comes with one descriptor, in the order of the grants.
    """

    lease: int
    region: int
    generation: int
    name: str
    address: int
    size: int
    capacity: int
    flags: int


# --- from the client


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The first message: the versions that the client speaks, and what it calls itself."""

    version_min: int
    version_max: int
    client: str


@dataclass(frozen=True, slots=True)
class Create(Message):
    """Ask for a new region of `size` payload bytes under `name`; the reply is Created."""

    name: str
    size: int
    seal: str
    backend: str
    mode: int
    replace: bool


@dataclass(frozen=True, slots=True)
class Publish(Message):
    """Make a created region visible. Addresses are absolute; 0 is none. The reply is Published."""

    region: int
    kind: int
    data_size: int
    root: int
    root_size: int
    metadata: int
    metadata_size: int


@dataclass(frozen=True, slots=True)
class Abort(Message):
    """Undo a creation. Has no reply; one that is published already stays so."""

    region: int


@dataclass(frozen=True, slots=True)
class Open(Message):
    """Ask for leases of current regions. The reply is Opened, for all of them, or a refusal for all.

    `held` is empty or names for each the region the client has mapped (0: none): what is still
    current is not sent again. With `wait`, the host answers when all the names exist.
    """

    open_names: tuple[str, ...]
    held: tuple[int, ...]
    wait: bool


@dataclass(frozen=True, slots=True)
class Release(Message):
    """Give leases back. Has no reply."""

    leases: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """Give up request or watch `target`. Has no reply of its own; the target gets its one reply."""

    target: int


@dataclass(frozen=True, slots=True)
class List(Message):
    """Ask for the regions whose name starts with `prefix`, after name `after`; the reply is Listed."""

    prefix: str
    after: str


@dataclass(frozen=True, slots=True)
class Stat(Message):
    """Ask for one current region; the reply is Described."""

    name: str


@dataclass(frozen=True, slots=True)
class Unlink(Message):
    """Hide a name at once; its memory goes with the last lease. The reply is Done."""

    name: str


@dataclass(frozen=True, slots=True)
class Chmod(Message):
    """Set the mode of the current region; only its owner may. The reply is Done."""

    name: str
    mode: int


@dataclass(frozen=True, slots=True)
class Watch(Message):
    """Ask for an Event at each change of a name with this prefix; the reply is Done, events follow."""

    prefix: str


# --- from the host


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The reply to Hello: the version both speak, and the ranges of addresses to reserve."""

    version: int
    host: str
    windows: tuple[tuple[int, int], ...]
    uid: int


@dataclass(frozen=True, slots=True)
class Created(Message):
    """The reply to Create, with one read-write descriptor: where the new region will be mapped."""

    region: int
    address: int
    capacity: int

    def descriptors(self) -> int:
        """The read-write descriptor."""
        return 1


@dataclass(frozen=True, slots=True)
class Published(Message):
    """The reply to Publish: the creator's own grant, with a read-only descriptor."""

    grant: Grant

    def descriptors(self) -> int:
        """The read-only descriptor."""
        return 1


@dataclass(frozen=True, slots=True)
class Opened(Message):
    """The reply to Open: a grant for each name, and a descriptor for each grant with a lease."""

    grants: tuple[Grant, ...]

    def descriptors(self) -> int:
        """One for each grant that has a lease."""
        return sum(1 for grant in self.grants if grant.lease)


@dataclass(frozen=True, slots=True)
class Listed(Message):
    """The reply to List, in the order of the names; `more` says that another request will get more."""

    regions: tuple[RegionInfo, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Described(Message):
    """The reply to Stat."""

    info: RegionInfo


@dataclass(frozen=True, slots=True)
class Done(Message):
    """The reply to what has nothing to tell."""


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """The reply to what is not done: a code of `errors.REFUSALS` and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Event(Message):
    """A push; `id` is the Watch's. `kind` is `published`, `unlinked` or `changed`."""

    kind: str
    info: RegionInfo


@dataclass(frozen=True, slots=True)
class Goodbye(Message):
    """The last message of a host that drops a peer: why."""

    text: str


REQUESTS: tuple[type[Message], ...] = (
    Hello,
    Create,
    Publish,
    Abort,
    Open,
    Release,
    Cancel,
    List,
    Stat,
    Unlink,
    Chmod,
    Watch,
)
REPLIES: tuple[type[Message], ...] = (
    Welcome,
    Created,
    Published,
    Opened,
    Listed,
    Described,
    Done,
    Refused,
    Event,
    Goodbye,
)


# --- the checks, made once for each class from its annotations


def _shown(value: object) -> str:
    """Return what an error says of a value that may be huge, or nested too deeply for repr()."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    if isinstance(value, int) and abs(value) >= 2**128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, tuple):
        return f"an array of {len(value)}"
    return repr(value) if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise TypeError(f"{_shown(value)} is not an integer from 0 to 2**64 - 1")
    return value


def _exactly(wanted: type) -> Check:
    def check(value: object) -> object:
        if type(value) is not wanted:
            raise TypeError(f"{_shown(value)} is not a {wanted.__name__}")
        return value

    return check


def _fixed(checks: tuple[Check, ...], build: Callable[..., object]) -> Check:
    def check(value: object) -> object:
        if type(value) is not tuple or len(value) < len(checks):
            raise TypeError(f"{_shown(value)} is not an array of {len(checks)}")
        return build(*[one(item) for one, item in zip(checks, value, strict=False)])

    return check


def _sequence(item: Check) -> Check:
    def check(value: object) -> object:
        if type(value) is not tuple:
            raise TypeError(f"{_shown(value)} is not an array")
        if len(value) > MAX_ARRAY:
            raise TypeError(f"{len(value)} items are over the {MAX_ARRAY} of an array")
        return tuple([item(one) for one in value])

    return check


def _check_for(hint: Any) -> Check:
    if hint is int:
        return _integer
    if dataclasses.is_dataclass(hint):
        return _fixed(_field_checks(typing.cast("type", hint)), typing.cast("type", hint))
    if isinstance(hint, types.GenericAlias):
        arguments = hint.__args__
        if arguments[-1] is Ellipsis:
            return _sequence(_check_for(arguments[0]))
        return _fixed(tuple(_check_for(one) for one in arguments), lambda *items: items)
    return _exactly(hint)


def _field_checks(cls: type) -> tuple[Check, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_check_for(hints[field.name]) for field in dataclasses.fields(cls))


def _tagged(classes: tuple[type[Message], ...], first: int) -> dict[int, type[Message]]:
    for tag, cls in enumerate(classes, first):
        cls.tag = tag
        cls.checks = _field_checks(cls)
        cls.names = tuple(field.name for field in dataclasses.fields(cls))
    return {cls.tag: cls for cls in classes}


# Tags are positions in these tables: a new message goes to the end of its table, never between.
REQUEST_TAGS = _tagged(REQUESTS, 1)
REPLY_TAGS = _tagged(REPLIES, 129)


def to_wire(message: Message) -> list[object]:
    """Return the array that stands for a message; LocalProtocolError when a field is not of its type."""
    fields = [getattr(message, name) for name in message.names]
    wire = [_plain(value) for value in fields]
    try:
        for check, value in zip(message.checks, wire, strict=True):
            check(value)
    except TypeError as error:
        raise LocalProtocolError(f"cannot send this {type(message).__name__}: {error}") from None
    descriptors = message.descriptors()
    if descriptors > MAX_DESCRIPTORS:
        raise LocalProtocolError(f"{descriptors} descriptors are over the {MAX_DESCRIPTORS} of a frame")
    return [message.tag, descriptors, *wire]


def _plain(value: object) -> object:
    if type(value) is tuple:
        return tuple([_plain(item) for item in value])
    if dataclasses.is_dataclass(value):
        return tuple([_plain(getattr(value, f.name)) for f in dataclasses.fields(value)])
    return value


def from_wire(wire: object, tags: dict[int, type[Message]]) -> Message:
    """Return the message of an unpacked frame, or raise RemoteProtocolError saying what is wrong."""
    if type(wire) is not tuple or len(wire) < 3:
        raise RemoteProtocolError(f"a frame is an array of tag, descriptors, id, ..., not {_shown(wire)}")
    tag, descriptors = wire[0], wire[1]
    cls = tags.get(tag) if type(tag) is int else None
    if cls is None:
        raise RemoteProtocolError(f"unknown message tag {_shown(tag)}")
    fields = wire[2:]
    if len(fields) < len(cls.checks):
        raise RemoteProtocolError(f"{cls.__name__} has {len(cls.checks)} fields, not {len(fields)}")
    try:
        message = cls(*[check(value) for check, value in zip(cls.checks, fields, strict=False)])
    except TypeError as error:
        raise RemoteProtocolError(f"{cls.__name__}: {error}") from None
    if type(descriptors) is not int or descriptors != message.descriptors():
        raise RemoteProtocolError(
            f"{cls.__name__} declares {_shown(descriptors)} descriptors, not {message.descriptors()}"
        )
    if descriptors > MAX_DESCRIPTORS:
        raise RemoteProtocolError(f"{descriptors} descriptors are over the {MAX_DESCRIPTORS} of a frame")
    return message
