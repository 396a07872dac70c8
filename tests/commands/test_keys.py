"""Single keys of a real terminal (a pseudo-terminal), which is as before in the end."""

from __future__ import annotations

import errno
import os
import signal
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shmhost.commands.top.keys import END, ESCAPE, Keyboard, split_keys

HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGWINCH)


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"nq", ["n", "q"]),
        (b"\x1b", [ESCAPE]),
        (b"\x1b\x1b", [ESCAPE]),
        (b"\x1b[A\x1bOP\x1b[1;5Cq", ["", "", "", "q"]),
        (b"\x1b[15~\x1bs\x1b\x1b[B", ["", "", ""]),
        (b"\xe6\x97\n\x00", ["\xe6", "\x97", "\n", "\0"]),
    ],
)
def test_sequences_of_other_keys_are_neither_escape_nor_letters(data: bytes, keys: list[str]) -> None:
    assert split_keys(data) == keys


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: who types, and what is typed at."""
    typist, typed = os.openpty()
    with os.fdopen(typist, "wb", 0), os.fdopen(typed, "wb", 0):
        yield typist, typed


def test_keys_come_singly_and_the_terminal_is_as_before_in_the_end(terminal: tuple[int, int]) -> None:
    typist, typed = terminal
    before = termios.tcgetattr(typed)
    handlers = [signal.getsignal(number) for number in HANDLED]
    with pytest.raises(ZeroDivisionError), Keyboard(typed) as keyboard:
        os.write(typist, b"s")
        assert keyboard.wait(20) == ["s"]
        os.write(typist, b"\x1b")
        assert keyboard.wait(20) == [ESCAPE]
        os.write(typist, b"\x1a")  # Ctrl-Z does not stop what owns the screen
        assert keyboard.wait(20) == ["\x1a"]
        raise ZeroDivisionError
    assert termios.tcgetattr(typed) == before
    assert [signal.getsignal(number) for number in HANDLED] == handlers


def test_sequence_is_one_key_when_it_comes_byte_by_byte(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    typist, typed = terminal
    rest, read = [b"[", b"1", b"A"], os.read

    def read_and_type(fd: int, size: int) -> bytes:
        data = read(fd, size)
        if rest:
            os.write(typist, rest.pop(0))
        return data

    with Keyboard(typed) as keyboard:
        monkeypatch.setattr(os, "read", read_and_type)
        os.write(typist, b"\x1b")
        assert keyboard.wait(20) == [""]
        assert keyboard.wait(0) == []


def test_wait_ends_with_the_time_a_new_size_or_the_terminal() -> None:
    typist, typed = os.openpty()
    with os.fdopen(typed, "wb", 0), Keyboard(typed) as keyboard:
        assert keyboard.wait(0.01) == []
        signal.raise_signal(signal.SIGWINCH)
        assert keyboard.wait(50) == []
        began = time.monotonic()
        assert keyboard.wait(0.05) == []
        assert time.monotonic() - began > 0.04  # the new size ends one wait, not all that follow
        os.close(typist)
        assert keyboard.wait(20) == [END]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_interrupt_once(number: signal.Signals, terminal: tuple[int, int]) -> None:
    with Keyboard(terminal[1]):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)


def test_signals_do_not_disturb_what_puts_the_terminal_back(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, change = termios.tcgetattr(terminal[1]), termios.tcsetattr

    def disturbed(fd: int, when: int, mode: list[Any]) -> None:
        signal.raise_signal(signal.SIGTERM)
        change(fd, when, mode)

    with Keyboard(terminal[1]):
        monkeypatch.setattr(termios, "tcsetattr", disturbed)
    assert termios.tcgetattr(terminal[1]) == before


def test_terminal_that_cannot_be_read_is_its_end(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_fd: int, _size: int) -> bytes:
        raise OSError(errno.EIO, "as for a process group that nobody controls any more")

    with Keyboard(terminal[1]) as keyboard:
        os.write(terminal[0], b"x")
        monkeypatch.setattr(os, "read", read)
        assert keyboard.wait(20) == [END]
        monkeypatch.undo()
