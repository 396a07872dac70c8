"""A host for tests, without the libraries of the command line. Its settings are the first argument, as JSON.

It ends when its standard input does, so with the process of the tests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from typing import NoReturn

import anyio

from shmhost.machine import logs
from shmhost.serving.policing import apply_policy_again
from shmhost.serving.server import Host, backend_options
from shmhost.settings.config import Config


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _leave() -> NoReturn:
    """End this process and touch nothing: it has been taken over."""
    logging.shutdown()
    os._exit(0)


async def _serve(config: Config, takes_over: bool) -> None:
    host = Host(config, leave=_leave, takes_over=takes_over)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, host.stop)
    loop.add_signal_handler(signal.SIGHUP, apply_policy_again, config, host.registry.accounts)
    await host.serve()


def main() -> None:
    """Run a host until SIGTERM, or until the end of its input."""
    settings = json.loads(sys.argv[1])
    settings["windows"] = tuple((base, size) for base, size in settings["windows"])
    config = Config(**settings)
    os.umask(0)  # each file is created with an explicit mode
    logs.configure(config.log_format, config.log_level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which end it
    threading.Thread(target=_end_with_input, name="end with the tests", daemon=True).start()
    anyio.run(_serve, config, "--takeover" in sys.argv, backend_options=backend_options())


if __name__ == "__main__":
    main()
