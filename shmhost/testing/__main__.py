"""The command `shmhost` for tests: it ends when its standard input does, so with the process of the tests."""

from __future__ import annotations

import os
import signal
import threading

from shmhost.cli import main


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, name="end with the tests", daemon=True).start()
    main()
