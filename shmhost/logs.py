"""How a host writes its log: one line for each change of its state, as text or as JSON, to stderr."""

from __future__ import annotations

import json
import logging
import queue
import threading
from datetime import UTC, datetime

FORMATS = ("text", "json")
LEVELS = ("info", "warning", "debug")  # the default: names that come and go; debug: generations as well
BACKLOG = 10_000  # lines that wait for a reader that stalls
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
            "pid": record.process,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


class PatientHandler(logging.Handler):
    """Hands records to another handler in a thread of its own, so that nobody waits for who reads the log.

    Where that one stalls, BACKLOG lines wait; those that come after them are lost, and counted in a line.
    """

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(BACKLOG)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record. Never waits."""
        if not self._room.acquire(blocking=False):
            self._lost += 1
            return
        self._records.put(record)

    def close(self) -> None:
        """Write what is left, for as long as END_S."""
        self._records.put(None)
        self._thread.join(END_S)
        super().close()

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            self._target.handle(record)
            self._room.release()
            if self._lost:
                lost, self._lost = self._lost, 0
                text = "%d lines of the log are lost: nobody read them"
                self._target.handle(
                    logging.LogRecord("shmhost", logging.WARNING, __file__, 0, text, (lost,), None)
                )


def configure(log_format: str, log_level: str) -> None:
    """Write the log of this process to stderr, in one of FORMATS, from one of LEVELS on."""
    target = logging.StreamHandler()
    target.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=log_level.upper(), handlers=[PatientHandler(target)])
