"""A terminal in full-screen, single-key mode, which is restored however that ends.

Knows no host, and not the content of the screen.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import termios
from collections.abc import Iterator
from types import FrameType
from typing import Any

from rich.console import Console, RenderableType
from rich.control import Control
from rich.screen import Screen

ESCAPE = "escape"
END = "end"  # the terminal is gone
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NO_KEY = b"\0"  # _POSIX_VDISABLE of Linux
# ECMA-48, 5.4: CSI is ESC [, parameters, one final byte; ESC O and one byte are the keypad's. A sequence
# counts as one key, with what Alt puts before it; an escape alone is the Esc key.
_KEY = re.compile(rb"\x1b+(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\x1b])|\x1b+|[^\x1b]", re.DOTALL)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")


def split_keys(data: bytes) -> list[str]:
    """Return the keys that were typed: characters, ESCAPE, and "" for each sequence of another key."""
    return [_key(match[0]) for match in _KEY.finditer(data)]


def _key(data: bytes) -> str:
    if data.strip(b"\x1b") == b"":
        return ESCAPE
    return "" if data[0] == 0x1B else data.decode("latin-1")


class Keyboard:
    """A terminal's keys without echo, and its signals. A context manager, for the main thread alone.

    Until it ends, SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, once: no further signal interrupts
    the restoring.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Keyboard:
        with contextlib.ExitStack() as undo:
            self._wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, self._wake)
            undo.callback(os.close, waker)
            # A signal's number is written here before a handler runs: a change of the size ends a wait.
            undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(waker, warn_on_full_buffer=False))
            for number in (signal.SIGWINCH, *_ENDS):
                handler = _end if number in _ENDS else _ignore
                undo.callback(signal.signal, number, signal.signal(number, handler))
            undo.callback(_set_mode, self._fd, termios.tcgetattr(self._fd))
            undo.callback(_ignore_ends)
            _set_mode(self._fd, _single_keys(termios.tcgetattr(self._fd)))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def wait(self, timeout_s: float) -> list[str]:
        """Return the keys that are typed; none on timeout, or when the size of the terminal changes."""
        ready, _, _ = select.select([self._fd, self._wake], [], [], max(timeout_s, 0.0))
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        return self._read() if self._fd in ready else []

    def _read(self) -> list[str]:
        try:
            data = chunk = os.read(self._fd, 4096)
            while chunk and _UNFINISHED.search(data):
                chunk = os.read(self._fd, 4096)  # VTIME: waits 0.1 s for the rest of a sequence
                data += chunk
        except OSError:  # EIO: the other side of the terminal was closed
            return [END]
        return split_keys(data) if data else [END]


@contextlib.contextmanager
def full_screen(console: Console) -> Iterator[None]:
    """Show the alternate screen, without a cursor; at the end the old content comes back."""
    try:
        console.set_alt_screen(True)
        console.show_cursor(False)
        yield
    finally:
        with contextlib.suppress(OSError):  # a terminal that is gone needs no restoring
            console.show_cursor(True)
            console.set_alt_screen(False)


def draw(console: Console, shown: RenderableType) -> None:
    """Redraw the whole screen with one write, so that nothing flickers."""
    with console:
        console.control(Control.home())
        console.print(Screen(shown), end="")


def _single_keys(mode: list[Any]) -> list[Any]:
    """Return a mode without line buffering and echo; a read waits up to 0.1 s, enough for ssh.

    Ctrl-Z and Ctrl-\\ send no signals then: they would leave the terminal in this mode.
    """
    *flags, local, input_speed, output_speed, keys = mode
    keys = [*keys]
    keys[termios.VMIN], keys[termios.VTIME] = 0, 1
    keys[termios.VSUSP] = keys[termios.VQUIT] = _NO_KEY
    return [*flags, local & ~(termios.ICANON | termios.ECHO), input_speed, output_speed, keys]


def _set_mode(fd: int, mode: list[Any]) -> None:
    with contextlib.suppress(termios.error):  # EIO: the terminal is gone; the next read says so
        termios.tcsetattr(fd, termios.TCSADRAIN, mode)


def _end(_number: int, _frame: FrameType | None) -> None:
    _ignore_ends()
    raise KeyboardInterrupt


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass  # SIGWINCH must not be SIG_IGN, which writes nothing to the wake-up descriptor


def _ignore_ends() -> None:
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
