"""A program that `shmclient exec` starts inherits descriptors, and the connection that holds the leases."""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping, Sequence

import shmclient
from shmclient._commands import progress
from shmclient._drivers import inheriting
from shmclient._drivers.inheriting import Heirloom


class Inheritance:
    """Regions and arenas for a program, and the client that has opened them."""

    def __init__(self, client: shmclient.Client, heirlooms: Sequence[Heirloom]) -> None:
        self._client = client
        self._heirlooms = heirlooms

    def pass_on(self, environment: MutableMapping[str, str]) -> None:
        """Let the program that replaces this one have them, and say so in its environment."""
        context = self._client._connected().context
        descriptors = [each for heirloom in self._heirlooms for each in heirloom.owned]
        descriptors += [self._client.fileno(), *context.exchange.ledger, context.outbox.lazy_board.fileno()]
        for descriptor in descriptors:
            if descriptor >= 0:  # without a board there is none of it
                os.set_inheritable(descriptor, True)
        for variable in ("SHM_REGIONS", "SHM_ARENAS"):
            lines = [heirloom.line for heirloom in self._heirlooms if heirloom.variable == variable]
            if lines:
                environment[variable] = "".join(f"{line}\n" for line in lines)


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
