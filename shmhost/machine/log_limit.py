"""A limit for each kind of log line, so that no client can fill a disk. Pure; callers have a clock.

A kind is a message without its values, and the user that caused it, if one did: nobody can have the lines
about others left out.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator

MAX_LINES = 50  # of a kind within a second: 6 KB/s, and whole for a program that starts with some names
WINDOW_S = 1.0
TEXT = "left out %d lines of this kind within a second, the last of them: %s"


class _Window:
    """A second of one kind, from its first line on."""

    __slots__ = ("count", "ends_s", "last")

    def __init__(self, ends_s: float) -> None:
        self.ends_s = ends_s
        self.count = 0
        self.last: logging.LogRecord | None = None  # that was left out


class Limit:
    """The lines of the last second, by kind."""

    def __init__(self) -> None:
        self._windows: dict[Hashable, _Window] = {}

    def __bool__(self) -> bool:
        return bool(self._windows)

    def admits(self, record: logging.LogRecord, now_s: float) -> bool:
        """Count a line; return whether it may be written. Otherwise `due` will tell how many there were."""
        kind = record.msg, getattr(record, "uid", None)
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now_s + WINDOW_S)
        window.count += 1
        if window.count <= MAX_LINES:
            return True
        window.last = record
        return False

    def due(self, now_s: float) -> Iterator[logging.LogRecord]:
        """Forget the seconds that have ended; yield a line for each in which lines were left out."""
        for kind, window in list(self._windows.items()):
            if now_s >= window.ends_s:
                del self._windows[kind]
                if window.last is not None:
                    yield _notice(window.count - MAX_LINES, window.last)


def _notice(count: int, last: logging.LogRecord) -> logging.LogRecord:
    return logging.LogRecord(last.name, last.levelno, __file__, 0, TEXT, (count, last.getMessage()), None)
