"""A private host in this process: for tests, notebooks and programs that bring their own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from anyio.from_thread import start_blocking_portal

from shmhost.config import Config
from shmhost.server import Host, backend_options


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddedHost:
    """A running host; `socket_path` is where its clients connect."""

    socket_path: str


@contextlib.contextmanager
def embedded(**settings: Any) -> Iterator[EmbeddedHost]:
    """Run a host in a thread of this process for the length of the block.

    The settings are those of `shmhost.config.Config`; without `socket_path` the socket lies in a new
    private folder. At the end all its regions are gone from the host; what clients have mapped stays
    readable. HostError when it cannot start.
    """
    with contextlib.ExitStack() as stack:
        if "socket_path" not in settings:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shmhost-"))
            settings["socket_path"] = os.path.join(folder, "host.sock")
        config = Config(**settings)
        portal = stack.enter_context(start_blocking_portal("asyncio", backend_options()))
        serving, host = portal.start_task(Host(config).serve)
        try:
            yield EmbeddedHost(config.socket_path)
        finally:
            portal.call(host.stop)
            serving.result()
