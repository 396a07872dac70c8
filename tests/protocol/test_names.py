"""What a region may be called, and the words of the wire."""

from __future__ import annotations

import enum

import pytest

from shmprotocol.errors import InvalidArgument
from shmprotocol.wire import messages as m
from shmprotocol.wire import names
from shmprotocol.wire.connection import pack, unpack
from shmprotocol.wire.names import Backend, ChangeKind, Seal, State, check_name


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b/c",
        "...",
        ".a",
        "a.",
        "a b",
        "é/ü",
        "x" * 255,
        "é" * 127 + "x",
        "\U0001f600" * 63 + "xyz",
        "/".join("x" * 128),
        "\u00a0",
        "\u2028",
    ],
)
def test_name_is_returned_when_it_keeps_the_rules(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 256, id="256 bytes"),
        pytest.param("é" * 128, id="128 characters of 256 bytes"),
        pytest.param("\U0001f600" * 64, id="64 characters of 256 bytes"),
        pytest.param(".", id="dot"),
        pytest.param("..", id="two dots"),
        pytest.param("a/./b", id="dot inside"),
        pytest.param("a/../b", id="two dots inside"),
        pytest.param("a/..", id="two dots at the end"),
        pytest.param("/", id="slash"),
        pytest.param("/a", id="leading slash"),
        pytest.param("a/", id="trailing slash"),
        pytest.param("a//b", id="double slash"),
        pytest.param("\0", id="zero byte"),
        pytest.param("a\0b", id="zero byte inside"),
        pytest.param("a\n", id="newline"),
        pytest.param("\x1f", id="last of C0"),
        pytest.param("\x7f", id="delete"),
        pytest.param("\x80", id="first of C1"),
        pytest.param("\x9f", id="last of C1"),
        pytest.param("\ud800", id="first surrogate"),
        pytest.param("a\udfff", id="last surrogate"),
    ],
)
def test_name_is_refused_when_it_breaks_a_rule(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_name(name)


@pytest.mark.parametrize("word", [*Seal, *Backend, *State, *ChangeKind])
def test_word_is_a_plain_string_once_it_was_on_the_wire(word: enum.StrEnum) -> None:
    received = unpack(pack(m.Stat(1, word))[4:])[3]
    assert type(received) is str
    assert received == word


@pytest.mark.parametrize("seal", ["full", "writer"])
def test_seal_is_returned_when_a_request_may_ask_for_it(seal: str) -> None:
    assert names.check_seal(seal) is Seal(seal)


@pytest.mark.parametrize("seal", ["none", "", "FULL", "fully", None, ()])
def test_seal_is_refused_with_its_value_when_no_request_may_ask_for_it(seal: str) -> None:
    with pytest.raises(
        InvalidArgument, match=rf"seal is one of full, writer, shared, not .*{seal if seal else ''}"
    ):
        names.check_seal(seal)


@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_backend_is_returned_when_there_is_one(backend: str) -> None:
    assert names.check_backend(backend) is Backend(backend)


def test_backend_is_refused_with_its_value_when_there_is_none() -> None:
    with pytest.raises(InvalidArgument, match="backend is one of memfd, shm, not 'memfdd'"):
        names.check_backend("memfdd")


@pytest.mark.parametrize("mode", [0, 0o640, 0o777])
def test_mode_is_returned_when_it_is_permission_bits(mode: int) -> None:
    assert names.check_mode(mode) == mode


@pytest.mark.parametrize(
    ("mode", "shown"), [(0o1000, "0o1000"), (-1, "-0o1"), (True, "True"), ("640", "'640'")]
)
def test_mode_is_refused_in_octal_when_it_is_anything_else(mode: object, shown: str) -> None:
    with pytest.raises(InvalidArgument, match=f"not {shown}$"):
        names.check_mode(mode)  # type: ignore[arg-type]
