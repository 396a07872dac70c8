"""The log of a host process, read as it is written. Knows no host and no test."""

from __future__ import annotations

import threading
from typing import IO

from shmprotocol.errors import HostError, HostTimeout

PATIENCE_S = 60.0  # a start takes 0.3 s on an idle machine, and † 3 s beside ten busy processes


class HostLog:
    """The lines of a stream, which a thread reads until its end. Owns the stream."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self._has_ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(stream,), name="log of a shmhost", daemon=True).start()

    def wait(self, *texts: str, start: int = 0) -> str:
        """Return the first line with one of these texts, from number `start` on.

        HostError: the log ended without it, as the process did. HostTimeout: none came within a minute.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self._find(texts, start), PATIENCE_S)
            line = self._find(texts, start)
            if line is not None:
                return line
            text = "\n".join(self.lines[-20:])
        if self._has_ended:
            raise HostError(f"the host has ended; its log:\n{text}")
        raise HostTimeout(f"the host did not get there within {PATIENCE_S:g} s; its log:\n{text}")

    def _find(self, texts: tuple[str, ...], start: int) -> str | None:
        return next((line for line in self.lines[start:] if any(text in line for text in texts)), None)

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
