"""A message as an array and back: the tags, the number of descriptors, and the checks on the way in. Pure.

The array is `[tag, descriptors, id, field...]`. A later minor version may append fields: unknown ones at the
end are ignored.
"""

from __future__ import annotations

from shmprotocol.errors import LocalProtocolError, RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_DESCRIPTORS
from shmprotocol.wire.records import Record, shown

# A tag is never changed or used again: a new message takes the next one of its table.
REQUEST_TAGS: dict[int, type[m.Message]] = {
    1: m.Hello,
    2: m.Create,
    3: m.Publish,
    4: m.Abort,
    5: m.Open,
    6: m.Release,
    7: m.Cancel,
    8: m.List,
    9: m.Stat,
    10: m.Unlink,
    11: m.Chmod,
    12: m.Watch,
    13: m.Inspect,
    14: m.Measure,
    15: m.Put,
    16: m.Assign,
    17: m.Reserve,
    18: m.Arena,
    19: m.Attend,
    20: m.Survey,
    21: m.Restore,
    22: m.Takeover,
    23: m.FindBoard,
    24: m.RestoreLedger,
    25: m.RestoreArena,
    26: m.Claim,
    27: m.Keep,
    28: m.Resize,
}
REPLY_TAGS: dict[int, type[m.Message]] = {
    129: m.Welcome,
    130: m.Created,
    131: m.Published,
    132: m.Opened,
    133: m.Listed,
    134: m.Described,
    135: m.Done,
    136: m.Refused,
    137: m.Event,
    138: m.Goodbye,
    139: m.Inspected,
    140: m.Measured,
    141: m.Reserved,
    142: m.ArenaMade,
    143: m.Surveyed,
    144: m.Restored,
    145: m.BoardFound,
    146: m.LedgerRestored,
    147: m.ArenaRestored,
}
TAG_OF = {cls: tag for tags in (REQUEST_TAGS, REPLY_TAGS) for tag, cls in tags.items()}


class _Records(dict[type[m.Message], Record]):
    """The checks of messages by their class, made on first use: a client sees a few, and all take 3 ms."""

    def __missing__(self, cls: type[m.Message]) -> Record:
        self[cls] = record = Record(cls)
        return record


_RECORDS = _Records()


def to_wire(message: m.Message) -> list[object]:
    """Return the array for a message of ours, whose fields have the right types."""
    descriptors = m.descriptors_of(message)
    if descriptors > MAX_DESCRIPTORS:
        raise LocalProtocolError(f"{descriptors} descriptors are over the {MAX_DESCRIPTORS} of a frame")
    wire = [TAG_OF[type(message)], descriptors, *message]  # type: ignore[misc]
    if type(message) is m.Opened and message.ledger == (0, 0):
        wire.pop()  # so that the plainest answer stays as short as it was
    return wire


def from_wire(wire: object, tags: dict[int, type[m.Message]]) -> m.Message:
    """Return the message of an unpacked frame, or raise RemoteProtocolError with the reason.

    The frame's second item is then the number of descriptors that ride on it.
    """
    if type(wire) is not tuple or len(wire) < 3:
        raise RemoteProtocolError(f"a frame is an array of tag, descriptors, id, ..., not {shown(wire)}")
    tag, descriptors = wire[0], wire[1]
    cls = tags.get(tag) if type(tag) is int else None
    if cls is None:
        raise RemoteProtocolError(f"unknown message tag {shown(tag)}")
    try:
        message: m.Message = _RECORDS[cls](wire[2:])
    except TypeError as error:
        raise RemoteProtocolError(f"{cls.__name__}: {error}") from None
    expected = m.descriptors_of(message)
    if type(descriptors) is not int or descriptors != expected:
        raise RemoteProtocolError(f"{cls.__name__} declares {shown(descriptors)} descriptors, not {expected}")
    if descriptors > MAX_DESCRIPTORS:
        raise RemoteProtocolError(f"{descriptors} descriptors are over the {MAX_DESCRIPTORS} of a frame")
    return message
