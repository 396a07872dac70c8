"""The path of the host's socket: which one counts, and which none can be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from shmprotocol.errors import InvalidArgument
from shmprotocol.wire.paths import MAX_SOCKET_PATH, AnyPath, socket_path


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"/a\xff"


@pytest.mark.parametrize(
    ("given", "environ", "path"),
    [
        ("/a", {"SHMHOST_SOCKET": "/b"}, "/a"),
        (Path("/a"), {"SHMHOST_SOCKET": "/b"}, "/a"),
        (b"/a\xff", {}, "/a\udcff"),
        (BytesPath(), {}, "/a\udcff"),
        ("relative", {}, "relative"),
        (None, {"SHMHOST_SOCKET": "/b", "XDG_RUNTIME_DIR": "/c"}, "/b"),
        (None, {"XDG_RUNTIME_DIR": "/c"}, "/c/shmhost/host.sock"),
        (None, {}, "/run/shmhost/host.sock"),
        (None, {"XDG_RUNTIME_DIR": ""}, "/run/shmhost/host.sock"),
        ("/" + "x" * 106, {}, "/" + "x" * 106),
    ],
)
def test_socket_path_is_chosen(given: AnyPath | None, environ: dict[str, str], path: str) -> None:
    assert socket_path(given, environ) == path


@pytest.mark.parametrize("given", ["", "/" + "x" * 107, "/a\0b"])
def test_socket_path_is_refused_that_no_socket_can_have(given: str) -> None:
    for each in (given, given.encode()):
        with pytest.raises(InvalidArgument, match="1 to 107 bytes"):
            socket_path(each, {})
    with pytest.raises(InvalidArgument):
        socket_path(None, {"SHMHOST_SOCKET": given})


def test_runtime_folder_counts_into_the_limit() -> None:
    longest = "/" + "x" * (MAX_SOCKET_PATH - len("//shmhost/host.sock"))
    assert len(socket_path(None, {"XDG_RUNTIME_DIR": longest})) == MAX_SOCKET_PATH
    with pytest.raises(InvalidArgument, match="not 108"):
        socket_path(None, {"XDG_RUNTIME_DIR": longest + "x"})


def test_limit_is_of_bytes_and_not_of_letters() -> None:
    assert socket_path("/" + "ä" * 53, {}) == "/" + "ä" * 53
    with pytest.raises(InvalidArgument, match="not 109"):
        socket_path("/" + "ä" * 54, {})
    assert socket_path(os.fsdecode(b"/\xff" + b"x" * 105), {}) == "/\udcff" + "x" * 105


def test_refusal_shows_no_more_than_the_start_of_a_path() -> None:
    with pytest.raises(InvalidArgument, match="not 100000") as caught:
        socket_path("x" * 100_000, {})
    assert len(str(caught.value)) < 300


def test_kernel_takes_the_longest_path(tmp_path: Path) -> None:
    path = socket_path(tmp_path / ("x" * (MAX_SOCKET_PATH - len(os.fsencode(tmp_path)) - 1)), {})
    assert len(path) == MAX_SOCKET_PATH
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="too long"):
        sock.bind(path + "x")


@drawn(st.text(st.characters(), max_size=120))
def test_path_is_returned_as_it_is_or_refused(text: str) -> None:
    """Text with lone surrogates among them, which no file name can have."""
    try:
        assert socket_path(text, {}) == text
    except InvalidArgument:
        assert not text.isascii() or len(text) > MAX_SOCKET_PATH or not text or "\0" in text


def test_text_that_no_file_name_can_have_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"file name.*'/\\ud800'"):
        socket_path("/\ud800", {})
