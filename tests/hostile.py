"""What a hostile client sends: descriptors of every kind, and streams from noise to sensible requests."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable

import msgpack
from hypothesis import strategies as st

from shmprotocol.wire import codec
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import BACKENDS, SEALS
from strategies import ANY_VALUE, record
from support import Lingering, RawPeer

BUDGET = 8 << 20  # bytes: all Work is done in the loop, so that no thread comes and goes
HELLO = pack(m.Hello(1, m.VERSION, m.VERSION, "fuzz"))


# --- descriptors of every kind that a client may think of


def _closing(stack: contextlib.ExitStack, *opened: int) -> int:
    for descriptor in opened:
        stack.callback(os.close, descriptor)
    return opened[0]


def _unix_socket(stack: contextlib.ExitStack, _peer: RawPeer) -> int:
    left, right = socket.socketpair()
    stack.enter_context(right)
    return stack.enter_context(left).fileno()


def _file(stack: contextlib.ExitStack, _peer: RawPeer) -> int:
    return _closing(stack, os.open("/tmp", os.O_RDWR | os.O_TMPFILE))


def _lingering(stack: contextlib.ExitStack, _peer: RawPeer) -> int:
    return stack.enter_context(Lingering()).socket.detach()


BLOCKING = "TCP socket whose close blocks"
KINDS: dict[str, Callable[[contextlib.ExitStack, RawPeer], int]] = {
    "pipe": lambda stack, _: _closing(stack, *os.pipe()),
    "file": _file,
    "folder": lambda stack, _: _closing(stack, os.open("/", os.O_RDONLY | os.O_DIRECTORY)),
    BLOCKING: _lingering,
    "unix socket": _unix_socket,
    "epoll": lambda stack, _: stack.enter_context(select.epoll()).fileno(),
    "eventfd": lambda stack, _: _closing(stack, os.eventfd(1)),
    "memfd": lambda stack, _: _closing(stack, os.memfd_create("fuzz")),
    "path": lambda stack, _: _closing(stack, os.open("/", os.O_PATH)),
    "null": lambda stack, _: _closing(stack, os.open("/dev/null", os.O_RDWR)),
    "pidfd": lambda stack, _: _closing(stack, os.pidfd_open(os.getpid())),
    "the connection itself": lambda _stack, peer: peer.socket.fileno(),
}


# --- what goes over the socket


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def wrong_fields() -> st.SearchStrategy[bytes]:
    """The tag of a request, with fields of any kind."""
    tags = st.sampled_from(sorted(codec.REQUEST_TAGS))
    fields = st.lists(ANY_VALUE, max_size=9)
    return st.builds(lambda tag, id_, rest: frame(msgpack.packb([tag, 0, id_, *rest])), tags, ids(), fields)


def ids() -> st.SearchStrategy[int]:
    return st.integers(0, 3) | st.integers(0, 2**64 - 1)


def names() -> st.SearchStrategy[str]:
    return st.sampled_from(["a", "a/b", "c" * 255])


def sizes() -> st.SearchStrategy[int]:
    return st.sampled_from([0, 1, 4096, 1 << 20, BUDGET, 2**47, 2**64 - 1])


def sensible() -> st.SearchStrategy[m.Message]:
    """Requests that come far: few names and numbers, so that they meet. Regions and leases: see `Talk`."""
    return st.one_of(
        st.builds(
            m.Create,
            ids(),
            names(),
            sizes(),
            st.sampled_from(SEALS),
            st.sampled_from(BACKENDS),
            st.sampled_from([0, 0o600, 0o777]),
            st.booleans(),
            st.booleans(),
            sizes() | st.just(0),
            sizes() | st.just(0),
        ),
        st.builds(
            m.Publish,
            ids(),
            st.integers(0, 2),
            st.integers(0, 3),
            sizes(),
            sizes(),
            sizes(),
            sizes(),
            sizes(),
            st.lists(sizes(), max_size=3).map(tuple),
        ),
        st.builds(
            m.Assign,
            ids(),
            st.integers(0, 2),
            names(),
            st.sampled_from([0, 0o600, 0o777, 0o1000]),
            st.booleans(),
            sizes(),
            sizes() | st.just(1),
            sizes() | st.just(0),
            sizes() | st.just(0),
            st.lists(sizes(), max_size=3).map(tuple),
        ),
        st.builds(m.Reserve, ids(), sizes()),
        st.builds(
            m.Put,
            ids(),
            names(),
            st.sampled_from([0, 0o600, 0o777, 0o1000]),
            st.booleans(),
            sizes() | st.integers(0, 9),
            sizes() | st.just(0),
            sizes() | st.integers(0, 9),
            st.binary(max_size=9) | st.just(bytes(20_000)),
        ),
        st.builds(m.Abort, ids(), st.integers(0, 2), st.booleans()),
        st.builds(
            m.Open,
            ids(),
            st.lists(names(), max_size=4).map(tuple),
            st.lists(ids(), max_size=4).map(tuple) | st.just(()),
            st.booleans(),
        ),
        st.builds(m.Release, ids(), st.lists(st.integers(0, 3), max_size=3).map(tuple)),
        st.builds(m.Cancel, ids(), ids()),
        st.builds(m.List, ids(), names() | st.just(""), names() | st.just("")),
        st.builds(m.Stat, ids(), names()),
        st.builds(m.Unlink, ids(), names()),
        st.builds(m.Chmod, ids(), names(), st.sampled_from([0, 0o600, 0o777, 0o1000])),
        st.builds(m.Watch, ids(), names() | st.just("")),
        st.builds(m.Inspect, ids(), names() | st.just(""), ids()),
        st.builds(m.Measure, ids()),
        st.builds(
            m.Arena,
            ids(),
            names(),
            sizes() | st.just(8192),
            sizes(),
            st.sampled_from([0, 0o600, 0o777, 0o1000]),
            st.booleans(),
            st.booleans(),
        ),
        st.builds(m.Attend, ids(), st.integers(0, 2)),
    )


def published() -> st.SearchStrategy[list[m.Message]]:
    """All that is needed to publish a region, and to open it."""
    return st.builds(
        lambda name, seal, backend: [
            m.Create(4, name, 4096, seal, backend, 0o600, True),
            m.Publish(5, 0, 1, 4096, 0, 0, 0, 0, (4096,)),
            m.Open(6, (name,), (), False),
        ],
        names(),
        st.sampled_from(SEALS),
        st.sampled_from(BACKENDS),
    )


def conversations() -> st.SearchStrategy[list[m.Message]]:
    """Requests in any order, some of which are right."""
    groups = st.lists(sensible().map(lambda message: [message]) | published(), max_size=20)
    return groups.map(lambda parts: [message for part in parts for message in part])


ANY_REQUEST = st.one_of([record(cls) for cls in codec.REQUEST_TAGS.values()])
PART = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(frame),
    ANY_VALUE.map(lambda value: frame(msgpack.packb(value))),
    wrong_fields(),
    ANY_REQUEST.map(pack),
    sensible().map(pack),
    st.just(HELLO),
    st.integers(0, 2**32 - 1).map(lambda length: length.to_bytes(4, "little")),
    st.just(frame(b"\xdc\x10\x00" * 1000)),  # claims 32 MiB
)


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[bytes, list[str]]]:
    """Draw what is sent at a time, and the kinds of the descriptors with it: frames are glued and cut."""
    stream = draw(st.sampled_from([b"", HELLO])) + b"".join(draw(st.lists(PART, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    kinds = st.just([]) | st.lists(st.sampled_from(sorted(KINDS)), max_size=3)
    return [(piece, draw(kinds)) for piece in pieces if piece]
