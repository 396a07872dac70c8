"""Tasks of an event loop that wait until values of arenas change: they share the event of their ledger."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from shmclient._arenas.reader import ClientLedger
from shmclient._arenas.resting import Position

_PAUSE_S = 0.001  # when 504 of a client wait already
_LOOK_AGAIN_S = 0.02  # when an owner has shut the event, which all owners share: it is readable for ever then


class Rests:
    """One of the tasks reads the event, and then all look at what they wait for."""

    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, Callable[[], bool]] = {}
        self._is_reading = False

    @property
    def are_in_use(self) -> bool:
        """Whether tasks wait here."""
        return bool(self._scopes)

    async def rest(
        self, position: Position, ledger: ClientLedger, limit_s: float, is_over: Callable[[], bool]
    ) -> None:
        """Return when something may have changed, or `is_over`, or after `limit_s`."""
        slot = position.reader._arm(position.entry)
        if not slot:
            await anyio.sleep(_PAUSE_S)
            return
        try:
            with anyio.move_on_after(limit_s) as scope:
                self._scopes[scope] = is_over
                if position.has_moved() or is_over():  # since the owner could not know that we wait
                    await anyio.lowlevel.checkpoint()
                elif self._is_reading:
                    await anyio.sleep_forever()
                else:
                    await self._read(ledger)
        finally:
            self._scopes.pop(scope, None)
            position.reader._disarm(slot)

    def announce(self) -> None:
        """Wake the tasks whose wait is over."""
        for scope, is_over in self._scopes.items():
            if is_over():
                scope.cancel()

    async def _read(self, ledger: ClientLedger) -> None:
        self._is_reading = True
        try:
            await anyio.wait_readable(ledger.fileno())
            if not ledger.clear():
                await anyio.sleep(_LOOK_AGAIN_S)
        finally:
            self._is_reading = False
            for scope in self._scopes:  # one of them reads from now on
                scope.cancel()
