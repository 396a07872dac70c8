"""A real terminal for tests: a shell in tmux, on a server of its own, 80 by 24 unless told otherwise."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from support import wait_until

_NUMBERS = itertools.count()


class Terminal:
    """One window with a shell in it. What is typed ends up on its screen, as for a user."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self._server = f"shmhost-test-{os.getpid()}-{next(_NUMBERS)}"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), "sh")
        self.tmux("set-option", "-g", "status", "off")
        self.resize(width, height)  # the status line took one
        self.run("PS1='$ '")

    def resize(self, width: int, height: int) -> None:
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names: `q`, `Escape`, `C-c`, `Enter`."""
        self.tmux("send-keys", *keys)

    def run(self, command: str) -> None:
        """Type a command and Enter."""
        self.tmux("send-keys", "-l", command)
        self.tmux("send-keys", "Enter")

    def run_module(self, module: str, *arguments: str) -> None:
        """Run one of our commands in this interpreter, then show its exit code as `code=N`."""
        command = shlex.join([sys.executable, "-m", module, *arguments])
        self.tmux("send-keys", "-R")  # at once: the exit code of the command before must not be seen
        self.run(f"clear; {command}; echo code''=$?")  # what is typed is no `code=` yet

    def screen(self) -> str:
        """Return what is on the screen, without trailing blanks."""
        return self.tmux("capture-pane", "-p").rstrip("\n")

    def lines(self) -> list[str]:
        return self.screen().splitlines()

    def until(self, *texts: str) -> str:
        """Wait until all texts are on the screen; return the screen."""

        def are_there() -> bool:
            screen = self.screen()
            return all(text in screen for text in texts)

        wait_until(are_there, shown=lambda: f"{texts} in:\n{self.screen()}")
        return self.screen()

    def close(self) -> None:
        socket = self.tmux("display-message", "-p", "#{socket_path}").strip()
        self.tmux("kill-server")
        Path(socket).unlink(missing_ok=True)  # some versions leave it

    def tmux(self, *arguments: str) -> str:
        """Give tmux a command; return what it prints."""
        command = ["tmux", "-u", "-L", self._server, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


T = TypeVar("T", bound=Terminal)


@contextlib.contextmanager
def opened(
    width: int = 80,
    height: int = 24,
    kind: type[T] = Terminal,  # type: ignore[assignment]
) -> Iterator[T]:
    """Give a terminal; the test is skipped where tmux is missing."""
    if shutil.which("tmux") is None:
        pytest.skip("NO TERMINAL IS TESTED HERE: apt-get install tmux")
    terminal = kind(width, height)
    try:
        yield terminal
    finally:
        terminal.close()
