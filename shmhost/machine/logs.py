"""How a host writes its log: one line for each change of its state, as text or as JSON, to stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from shmhost.machine.log_limit import WINDOW_S, Limit

FORMATS = ("text", "json")
LEVELS = ("info", "warning", "debug")  # the default: names that come and go; debug: generations as well
BACKLOG = 10_000  # queued lines when the reader stalls
# After a burst of lines, before the next one: to wake the thread for each line of many takes longer than
# all else that a new name needs of the host.
PAUSE_S = 0.02
END_S = 1.0
_TEXT = "%(asctime)s %(name)s %(levelname)s %(message)s"


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object: time (UTC), level, logger, message, the values in it, pid.

    `values` are the arguments of the message in their order, as numbers and text; `error` is a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        values = record.args if isinstance(record.args, tuple) else ()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "values": [value if isinstance(value, int | float) else str(value) for value in values],
            "pid": os.getpid(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


class PatientHandler(logging.Handler):
    """Writes lines in its own thread, so that a slow reader never blocks the host, even at its end.

    If the reader stalls, BACKLOG lines are queued; further lines are dropped, and their number is logged. So
    are those of a kind of which there are too many, see `log_limit`.
    `write` is called in the thread, with a whole line.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._write_line = write
        self._records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._hurry = threading.Event()  # a warning waits, or the end
        # Of what is counted. Not the handler's lock: `logging.shutdown` holds that while it closes handlers.
        self._lock = threading.Lock()
        self._lost = 0
        self._limit = Limit()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record. Never waits."""
        with self._lock:
            is_lost = self._records.qsize() >= BACKLOG
            self._lost += is_lost
            is_admitted = not is_lost and self._limit.admits(record, time.monotonic())
        if is_admitted:
            self._records.put(record)
            if record.levelno >= logging.WARNING:
                self._hurry.set()

    def close(self) -> None:
        """Write the queued lines, for at most END_S."""
        self._records.put(None)
        self._hurry.set()
        self._thread.join(END_S)
        super().close()

    def _write(self) -> None:
        is_open = True
        while is_open:
            is_open = self._write_next()
            for notice in self._notices(WINDOW_S if not is_open else 0.0):
                self._write_line(self._line(notice))
            if is_open and self._records.empty():
                self._hurry.wait(PAUSE_S)
                self._hurry.clear()  # what it was set for is in the queue

    def _write_next(self) -> bool:
        """Write the next line, or none while kinds of lines are counted and a second ends; False: the end."""
        try:
            record = self._records.get(timeout=WINDOW_S if self._limit else None)
        except queue.Empty:
            return True
        if record is not None:
            self._write_line(self._line(record))
        return record is not None

    def _notices(self, ahead_s: float) -> list[logging.LogRecord]:
        """Return a line for each kind of which lines are missing."""
        with self._lock:
            lost, self._lost = self._lost, 0
            notices = list(self._limit.due(time.monotonic() + ahead_s))
        if lost:
            text = "%d log lines dropped: the reader of stderr is too slow"
            notices.append(logging.LogRecord("shmhost", logging.WARNING, __file__, 0, text, (lost,), None))
        return notices

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"


def _write_to_stderr(line: bytes) -> None:
    # Does not use sys.stderr, because its buffer has a lock that the end of the interpreter takes, too.
    with contextlib.suppress(OSError):
        while line:
            line = line[os.write(2, line) :]


def configure(log_format: str, log_level: str) -> None:
    """Write the log of this process to stderr, in one of FORMATS, from one of LEVELS on."""
    # No line has any of these, and finding them out takes half of its time († 11 us of 19, 2026-11). The
    # first is as the HOWTO of logging says it ("Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = PatientHandler(_write_to_stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
