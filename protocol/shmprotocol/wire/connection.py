"""The wire without the wire: bytes and descriptors in, messages out, and back (sans-I/O).

A frame is a u32 length (little-endian) and that many bytes of msgpack. Descriptors arrive before the
frame that declares them, or with the end of an earlier one, and so wait in a FIFO. Reads no socket
and no clock, and closes no descriptor: at the end, `drain` returns the remaining ones to the caller.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, MutableSequence
from itertools import repeat, starmap
from typing import Any, Literal, NoReturn

import msgpack

from shmprotocol.errors import LocalProtocolError, RemoteProtocolError, again
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.codec import REPLY_TAGS, REQUEST_TAGS, TAG_OF, from_wire, to_wire
from shmprotocol.wire.messages import LOST, Message
from shmprotocol.wire.names import MAX_ARRAY, MAX_DESCRIPTORS, MAX_FRAME, MAX_REQUEST

_LENGTH = struct.Struct("<I")
_PREFIX = _LENGTH.size
# The number of descriptors that may wait for the rest of their frame. Requests have none, but for Restore: a
# client that sends some with half a frame would make the host keep them open.
_MAX_UNCLAIMED = {"client": MAX_DESCRIPTORS, "host": 0}


class Packed(NamedTuple):
    """A message that is packed already."""

    id: int
    frame: bytes


def pack_list(kind: type[Message], request: int, items: list[bytes], *rest: object) -> bytes:
    """Return the whole frame of a message without descriptors whose first field is a list of packed items."""
    head = msgpack.Packer().pack_array_header(len(items))
    fields = b"".join(map(msgpack.packb, (TAG_OF[kind], 0, request)))
    body = b"".join((bytes((0x90 | 4 + len(rest),)), fields, head, *items, *map(msgpack.packb, rest)))
    if len(body) > MAX_FRAME:
        raise LocalProtocolError(f"{len(body)}-byte frame is over {MAX_FRAME}: it is a {kind.__name__}")
    return _LENGTH.pack(len(body)) + body


def pack(message: Message) -> bytes:
    """Return the whole frame of a message; LocalProtocolError if it cannot be sent."""
    if type(message) is Packed:
        return message.frame
    try:
        body: bytes = msgpack.packb(to_wire(message), use_bin_type=True)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
        raise LocalProtocolError(f"cannot send this {type(message).__name__}: {error}") from None
    limit = MAX_REQUEST if TAG_OF[type(message)] in REQUEST_TAGS else MAX_FRAME
    if len(body) > limit:
        raise LocalProtocolError(f"{len(body)}-byte frame is over {limit}: it is a {type(message).__name__}")
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes | bytearray | memoryview) -> Any:
    """Return the value of a frame's body, arrays as tuples; or RemoteProtocolError.

    Maps and extensions are refused, even empty ones: an empty map is one byte here and 80 in memory. Since
    msgpack itself stops at 1024 nested arrays, unpacking takes at most 64 times the size of the body.
    """
    try:
        return msgpack.unpackb(
            body,
            use_list=False,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_ARRAY,
            max_map_len=0,
            max_ext_len=0,
            object_pairs_hook=_refuse,
            ext_hook=_refuse,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        why = str(error) or type(error).__name__
        raise RemoteProtocolError(f"a {len(body)}-byte frame is not a msgpack array: {why}") from None


def _refuse(*_value: object) -> NoReturn:
    raise ValueError("no message has maps or extensions")


class Connection:
    """One side of a connection. `role` names the side: it decides which messages are accepted.

    An error is final: after a RemoteProtocolError every call raises it again. `owned` is the type of
    the lists in which descriptors are handed on.
    """

    __slots__ = (
        "_broken",
        "_buffer",
        "_descriptors",
        "_max_frame",
        "_none",
        "_owned",
        "_start",
        "_tags",
        "_unclaimed_max",
    )

    def __init__(self, role: Literal["client", "host"], owned: type[list[int]] = list) -> None:
        self._tags = REPLY_TAGS if role == "client" else REQUEST_TAGS
        self._max_frame = MAX_FRAME if role == "client" else MAX_REQUEST
        self._buffer: bytes | bytearray = b""
        self._start = 0  # bytes that are not yet part of a message
        self._owned = owned
        self._none = owned()
        self._descriptors: deque[int] = deque()
        self._unclaimed_max = _MAX_UNCLAIMED[role]
        self._broken: RemoteProtocolError | None = None

    def receive(self, data: bytes, descriptors: MutableSequence[int] | tuple[()] = ()) -> None:
        """Take what one `recvmsg` gave. The descriptors move here, until `messages` hands them on.

        LOST behind them says that the kernel dropped the rest of their set, MSG_CTRUNC.

        They are even when this raises the error that ended the connection: `drain` has them.
        """
        if descriptors:
            self._descriptors.extend(map(descriptors.pop, repeat(0, len(descriptors))))
        self._raise_broken()
        if self._start == len(self._buffer):
            self._buffer, self._start = data, 0  # unchanged: nearly every read is one whole frame
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += data

    def messages(self) -> Iterator[tuple[Message, list[int]]]:
        """Yield each whole message with its descriptors, which the caller then owns.

        They are fewer than `descriptors_of` it when some were LOST: that message's alone.
        """
        self._raise_broken()
        try:
            while (body := self._take_frame()) is not None:
                wire = unpack(body)
                message = from_wire(wire, self._tags)
                yield message, self._claim(message, wire[1])
            if self._descriptors:
                self._check_unclaimed()
        except RemoteProtocolError as error:
            self._broken = again(error)
            raise

    def allow_descriptors(self, count: int) -> None:
        """Set how many descriptors may wait for the rest of their frame."""
        self._unclaimed_max = count

    @property
    def is_inside_frame(self) -> bool:
        """Whether bytes are left over: those of an incomplete frame, after `messages` has ended."""
        return self._start < len(self._buffer)

    @property
    def is_between_frames(self) -> bool:
        """Whether all that came has gone: neither bytes nor descriptors are left over."""
        return self._start == len(self._buffer) and not self._descriptors

    @property
    def rest(self) -> bytes:
        """The bytes that are not yet part of a message."""
        return bytes(self._buffer[self._start :])

    @property
    def has_descriptors(self) -> bool:
        """Whether descriptors wait for the rest of their frame."""
        return bool(self._descriptors)

    def drain(self) -> list[int]:
        """Return the descriptors that no message has claimed; the caller closes them."""
        left = [descriptor for descriptor in self._descriptors if descriptor != LOST]
        self._descriptors.clear()
        return left

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise again(self._broken)

    def _claim(self, message: Message, count: int) -> list[int]:
        # A set of descriptors rides on the first byte of its frame, all in one control message, and no read
        # goes on beyond bytes that came with a set (unix_stream_read_generic() in the kernel). So sets come
        # in the order of the frames that declare them, one for each, and at most one in a read: the one that
        # the read's MSG_CTRUNC is about. LOST stands at its end, where the frame that it belongs to stops,
        # and later frames find their own sets behind it: the queue stays in step, whatever was dropped.
        if not count:
            return self._none
        claimed = self._owned()
        queue = self._descriptors
        if LOST not in queue:
            if count > len(queue):
                name = type(message).__name__
                raise RemoteProtocolError(f"{name} declares {count} descriptors, but {len(queue)} arrived")
            claimed.extend(starmap(queue.popleft, repeat((), count)))  # one call: signals interrupt none
            return claimed
        while len(claimed) < count and queue and (descriptor := queue.popleft()) != LOST:
            claimed.append(descriptor)
        return claimed

    def _take_frame(self) -> bytes | bytearray | None:
        buffer, start = self._buffer, self._start + _PREFIX
        if len(buffer) < start:
            return None
        length: int = _LENGTH.unpack_from(buffer, self._start)[0]
        if length > self._max_frame:
            raise RemoteProtocolError(f"{length}-byte frame is over {self._max_frame}")
        if len(buffer) < start + length:
            return None
        self._start = start + length
        return buffer[start : self._start]

    def _check_unclaimed(self) -> None:
        # Descriptors ride on the first byte of their frame. Between frames, no frame declares these.
        unclaimed = len(self._descriptors)
        if unclaimed > (self._unclaimed_max if self.is_inside_frame else 0):
            raise RemoteProtocolError(f"{unclaimed} descriptors arrived that no frame declares")
