"""Frames that are nearly right, through the framer, the decoder and a session: no fault, and nothing is left.

The host's core runs here without its sockets, so that an input takes some 50 us and not some 50 ms.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from core_machine import Model
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.native.builtins import parse_request
from shmprotocol.wire import codec
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from support import count_descriptors

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
CONVERSATIONS = 20_000 if IS_LONG else 100  # of a seed, 50 frames each
EDGES = [
    0,
    1,
    2,
    7,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    4096,
    65535,
    65536,
    2**31,
    2**32,
    2**47,
    2**63,
    2**64 - 1,
]
VALUES = [
    *EDGES,
    -1,
    -(2**63),
    None,
    True,
    False,
    b"",
    "",
    "a",
    "\0",
    "../a",
    0.5,
    (),
    (1,),
    ("a",),
    b"\xff" * 40,
]
REQUESTS: list[m.Message] = [
    m.Create(1, "a", 4096, "full", "memfd", 0o600, True),
    m.Publish(2, 1, 1, 4096, 0, 0, 0, 0, (4096,)),
    m.Put(3, "b", 0o600, True, 3, 1, 1, b"xyz"),
    m.Assign(4, 1, "a", 0o600, True, 4096, 1, 0, 0, (4096, 1)),
    m.Reserve(5, 8192),
    m.Abort(6, 1, False),
    m.Open(7, ("a", "b"), (1, 2), True),
    m.Open(8, ("c/d",), (), False),
    m.Release(0, (1,)),
    m.Cancel(9, 7),
    m.List(10, "", ""),
    m.Stat(11, "a"),
    m.Unlink(12, "b"),
    m.Chmod(13, "a", 0o666),
    m.Watch(14, ""),
    m.Inspect(15, "", 0),
    m.Measure(16),
    m.Arena(17, "c", 8192, 16384, 0o666, True, True),
    m.Attend(18, 1),
    m.Survey(19, 1, 0, 0),
    m.Hello(20, 1, 9, "again"),
]


def mutated(message: m.Message, choose: random.Random) -> bytes:
    """Return a frame whose fields, or whose bytes, are not quite those of a message."""
    if choose.random() < 0.5:
        wire = codec.to_wire(message)
        for _ in range(choose.randrange(1, 3)):
            wire[choose.randrange(len(wire))] = choose.choice(VALUES)
        body = bytearray(msgpack.packb(wire))
    else:
        body = bytearray(pack(message)[4:])
        for _ in range(choose.randrange(1, 4)):
            at = choose.randrange(len(body))
            kind = choose.randrange(4)
            if kind == 0:
                body[at] ^= 1 << choose.randrange(8)
            elif kind == 1:
                body[at] = choose.randrange(256)
            elif kind == 2:
                del body[at : at + choose.randrange(1, 5)]
            else:
                body[at:at] = body[at : at + choose.randrange(1, 9)]
            body = body or bytearray(b"\x90")
    length = len(body) if choose.random() < 0.95 else choose.randrange(2**17)
    return length.to_bytes(4, "little") + bytes(body)


def frames(choose: random.Random) -> Iterator[bytes]:
    for _ in range(50):
        message = choose.choice(REQUESTS)
        if isinstance(message, m.Publish | m.Assign | m.Abort | m.Attend | m.Survey):
            message = message._replace(region=choose.randrange(1, 40))
        yield pack(message) if choose.random() < 0.85 else mutated(message, choose)


def converse(model: Model, choose: random.Random) -> None:
    """Have a client say something until it is dropped."""
    model.connect(choose.choice([0, 7, 8]))
    client, connection = model.clients[-1], Connection("host")
    for frame in frames(choose):
        parse_request(frame, model.registry.current)  # what the fast road makes of it is compared elsewhere
        try:
            connection.receive(frame)
            for message, _ in connection.messages():
                client.say(message)
                while client.steps is not None:
                    client.work()
                if client.is_dead:
                    return
        except RemoteProtocolError:
            break
    client.die()


@pytest.mark.parametrize("seed", range(5))
def test_frames_that_are_nearly_right_leave_the_core_in_order(seed: int, tmp_path: Path) -> None:
    before = count_descriptors()
    choose = random.Random(seed)
    model = Model(str(tmp_path))
    for _ in range(CONVERSATIONS):
        converse(model, choose)
        model.check()
    model.end()
    model.close()
    assert count_descriptors() == before
