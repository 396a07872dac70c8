"""The shortcut reads and writes what the connection does, or leaves it alone."""

from __future__ import annotations

import contextlib
import itertools

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire import shortcut
from shmprotocol.wire.connection import Connection, pack
from wire_support import frame

NUMBERS = st.integers(1, 2**64 - 1) | st.sampled_from([127, 128, 255, 256, 65535, 65536, 2**32])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80).filter(
    lambda name: len(name.encode()) < 256
)


def messages(role: str, data: bytes) -> list[m.Message]:
    connection = Connection(role)  # type: ignore[arg-type]
    connection.receive(data)
    return [message for message, _ in connection.messages()]


class Every(dict[str, str]):
    """Names, each as itself."""

    @classmethod
    def of(cls, data: bytes) -> Every:
        """Return a dict of the names in data that the connection takes."""
        names: list[str] = []
        with contextlib.suppress(RemoteProtocolError):
            for message in messages("host", data):
                names += message.open_names if isinstance(message, m.Open) else ()
        return cls(zip(names, names, strict=True))


def every_text(data: bytes) -> dict[str, str]:
    """Return a dict of all parts of data that are UTF-8: whatever the C code takes for a name is in it."""
    texts = set()
    for start, end in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        with contextlib.suppress(UnicodeDecodeError):
            texts.add(data[start:end].decode())
    return {text: text for text in texts}


def parse(data: bytes) -> tuple[int, list[int], int, list[str]] | None:
    return shortcut.parse(data, Every.of(data))


@given(
    NUMBERS, st.lists(NAMES, min_size=1, max_size=64), st.lists(st.lists(NUMBERS, max_size=20), max_size=3)
)
@example(1, ["x" * 31], [])
@example(1, ["x" * 32, "x" * 255], [])
@example(1, ["x"] * 15, [[1] * 15])
@example(1, ["x"] * 16, [[1] * 16])
@example(1, ["x"] * 64, [[]])
def test_frames_of_an_attach_are_recognised(number: int, names: list[str], leases: list[list[int]]) -> None:
    releases = b"".join(pack(m.Release(0, tuple(each))) for each in leases)
    flat = [lease for each in leases for lease in each]
    opened = pack(m.Open(number, tuple(names), (), False))
    assert parse(releases + opened) == (len(leases), flat, number, names)
    assert parse(releases) == ((len(leases), flat, 0, []) if leases else None)


@pytest.mark.parametrize(
    "message",
    [
        m.Open(1, (), (), False),
        m.Open(1, ("a",) * 65, (), False),
        m.Open(1, ("x" * 256,), (), False),
        m.Open(1, ("a",), (7,), False),
        m.Open(1, ("a",), (), True),
        m.Release(5, (1,)),
        m.Release(0, (1,) * 4097),
        m.Stat(1, "a"),
        m.Hello(1, 1, 1, "x"),
    ],
    ids=lambda message: repr(message)[:40],
)
def test_all_else_is_left_to_the_connection(message: m.Message) -> None:
    assert parse(pack(message)) is None
    assert parse(pack(m.Release(0, (5,))) + pack(message)) is None


def test_name_that_is_not_there_is_left_to_the_connection() -> None:
    attach = pack(m.Release(0, (5,))) + pack(m.Open(1, ("a", "b"), (), False))
    assert shortcut.parse(attach, {"a": 1}) is None
    assert shortcut.parse(attach, {"a": 1, "b": 2}) == (1, [5], 1, [1, 2])


def test_more_after_an_open_is_left_to_the_connection() -> None:
    attach = pack(m.Open(1, ("a",), (), False))
    assert parse(attach + attach) is None
    assert parse(attach + pack(m.Release(0, (5,)))) is None


@given(NUMBERS, st.lists(NAMES, min_size=1, max_size=3), st.data())
def test_no_part_of_an_attach_is_taken_for_the_whole(
    number: int, names: list[str], data: st.DataObject
) -> None:
    whole = pack(m.Release(0, (number,))) + pack(m.Open(number, tuple(names), (), False))
    cut = data.draw(st.integers(0, len(whole) - 1))
    parsed = shortcut.parse(whole[:cut], Every.of(whole))
    assert parsed is None or parsed == (1, [number], 0, [])  # cut between the frames


@given(
    st.binary(max_size=60), st.sampled_from([b"\x96\x05\x00", b"\x94\x06\x00\x00", b"\x94\x06\x00\x00\x91"])
)
def test_any_bytes_mean_the_same_to_both_or_are_left_alone(tail: bytes, start: bytes) -> None:
    data = frame(start + tail)
    parsed = shortcut.parse(data, every_text(tail))
    if parsed is None:
        return
    releases, leases, number, names = parsed
    want: list[m.Message] = [m.Release(0, tuple(leases))] * releases
    assert messages("host", data) == want + ([m.Open(number, tuple(names), (), False)] if names else [])


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_without_an_error(data: bytes) -> None:
    shortcut.parse(data, {})
    shortcut.parse(frame(data), {})


def test_wrong_arguments_are_type_errors() -> None:
    """The functions are C: they check what a function in Python finds out by itself."""
    grant = shortcut.pack_grant(m.Grant(0, 7, 2, "a", 0x550000000000, 10, 8192, 3))
    for call in (
        lambda: shortcut.parse("text", {}),  # type: ignore[arg-type]
        lambda: shortcut.parse(b""),  # type: ignore[call-arg]
        lambda: shortcut.opened(1, [1]),  # type: ignore[call-arg]
        lambda: shortcut.opened(1, [1], ["text"]),  # type: ignore[list-item]
        lambda: shortcut.opened(1, ["1"], [grant]),  # type: ignore[list-item]
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(SystemError):
        shortcut.parse(pack(m.Open(1, ("a",), (), False)), ["a"])  # type: ignore[arg-type]
    with pytest.raises(SystemError):
        shortcut.opened(1, (1,), [grant])  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        shortcut.opened(1, [], [grant])
    with pytest.raises(ValueError, match="65 grants are over the 64"):
        shortcut.opened(1, [1] * 65, [grant] * 65)
    with pytest.raises(ValueError, match="empty"):
        shortcut.opened(1, [1], [b""])


@given(NUMBERS)
def test_release_is_the_frame_that_pack_makes(lease: int) -> None:
    assert shortcut.release(lease) == pack(m.Release(0, (lease,)))


@given(NUMBERS, st.lists(st.tuples(NUMBERS, NAMES), min_size=1, max_size=64))
@example(1, [(5, "x")] * 15)
@example(1, [(5, "x")] * 16)
@example(1, [(2**64 - 1, "x" * 255)] * 64)
def test_opened_is_the_frame_that_pack_makes(number: int, granted: list[tuple[int, str]]) -> None:
    grants = [m.Grant(lease, 7, 2, name, 0x550000000000, 10, 8192, 3) for lease, name in granted]
    packed = shortcut.opened(
        number, [grant.lease for grant in grants], list(map(shortcut.pack_grant, grants))
    )
    assert packed == pack(m.Opened(number, tuple(grants)))
    assert msgpack.unpackb(packed[4:])[1] == len(grants)
