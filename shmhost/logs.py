"""How a host writes its log: one line for each change of its state, as text or as JSON, to stderr."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

FORMATS = ("text", "json")
LEVELS = ("info", "warning")  # each change, or only what somebody should look at
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


def configure(log_format: str, log_level: str) -> None:
    """Write the log of this process to stderr, in one of FORMATS, from one of LEVELS on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
