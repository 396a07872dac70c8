"""A program that `shmclient exec` starts inherits descriptors, and the connection that holds the leases."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import MutableMapping, Sequence

import shmclient
from shmclient._commands import progress
from shmclient._drivers import inheriting
from shmclient._drivers.inheriting import Heirloom
from shmclient._regions.creation import Creation


class Inheritance:
    """Regions and arenas for a program, and the client that has opened them."""

    def __init__(self, client: shmclient.Client, heirlooms: Sequence[Heirloom]) -> None:
        self._client = client
        self._heirlooms = list(heirlooms)
        self._creations: list[Creation] = []

    def create(self, regions: Sequence[tuple[str, int]], mode: int) -> None:
        """Make regions for the program to fill."""
        for name, size in regions:
            heirloom, creation = self._client._run(inheriting.created, name, size, mode)
            self._heirlooms.append(heirloom)
            self._creations.append(creation)

    def fill(self, program: str, command: Sequence[str]) -> int:
        """Run a program, and publish the regions that it fills if it ends with 0; return its exit code.

        The first that cannot be published ends this, and the others are given up.
        """
        environment = dict(os.environ)
        self.pass_on(environment)
        # Only what `pass_on` has made inheritable goes with it.
        with subprocess.Popen(command, executable=program, env=environment, close_fds=False) as child:
            code = _wait(child)
        for creation in self._creations:
            if code == 0:
                self._client._run(inheriting.publish, creation)
            else:
                creation.abort()
        self._client.close()
        return code

    def pass_on(self, environment: MutableMapping[str, str]) -> None:
        """Let the program that replaces this one have them, and say so in its environment."""
        context = self._client._connected().context
        descriptors = [each for heirloom in self._heirlooms for each in heirloom.owned]
        if not self._creations:  # else this process stays, and keeps the connection
            descriptors.append(self._client.fileno())
        descriptors += [*context.exchange.ledger, context.outbox.lazy_board.fileno()]
        for descriptor in descriptors:
            if descriptor >= 0:  # without a board there is none of it
                os.set_inheritable(descriptor, True)
        for variable in ("SHM_REGIONS", "SHM_ARENAS", "SHM_CREATES"):
            lines = [heirloom.line for heirloom in self._heirlooms if heirloom.variable == variable]
            if lines:
                environment[variable] = "".join(f"{line}\n" for line in lines)
        environment.pop("SHM_HOST", None)
        # The process that owns an arena hands it back: this one, whose place the program takes.
        if not self._creations and any(heirloom.is_written for heirloom in self._heirlooms):
            host = f"{self._client.fileno()} {context.outbox.host_id} {self._client.socket_path}"
            environment["SHM_HOST"] = host


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Wait for a program, and pass signals on to it; return its exit code, as a shell has it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: child.send_signal(number))
    for number in (signal.SIGINT, signal.SIGQUIT):  # a terminal sends them to both
        signal.signal(number, lambda *_: None)
    code = child.wait()
    return code if code >= 0 else 128 - code


def take_inheritance(
    path: str | None,
    names: Sequence[str],
    arenas: Sequence[tuple[str, int]],
    mode: int,
    wait: float | None,
) -> Inheritance:
    """Open regions and arenas, and make arenas; with a wait, say on a terminal that this waits."""
    if wait is None:
        client = shmclient.connect(path)
        return Inheritance(client, _open(client, names, arenas, mode, None))
    end = time.monotonic() + wait
    with progress.waiting(f"Waiting for {', '.join(names)}"):
        client = shmclient.connect(path, wait=wait)
        return Inheritance(client, _open(client, names, arenas, mode, max(end - time.monotonic(), 0)))


def _open(
    client: shmclient.Client,
    names: Sequence[str],
    arenas: Sequence[tuple[str, int]],
    mode: int,
    wait: float | None,
) -> list[Heirloom]:
    heirlooms = [client._run(inheriting.owned_arena, name, size, mode) for name, size in arenas]
    if names:
        waiting = client._core.run_waiting(
            lambda context, retry: inheriting.opened(context, names, retry.wait), wait
        )
        heirlooms += client._drive(waiting)
    return heirlooms
