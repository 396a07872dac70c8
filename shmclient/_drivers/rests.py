"""Tasks of an event loop that wait until values of arenas change: they share the event of their ledger."""

from __future__ import annotations

import socket
from collections.abc import Callable

import anyio

from shmclient._arenas.reader import ClientLedger
from shmclient._arenas.resting import Position
from shmclient._drivers.bell import PAUSE_S, Bell, running_loop

_PAUSE_S = 0.001  # when 504 of a client wait already


class Rests:
    """On asyncio a bell watches the event. On trio one of the tasks reads it, and then all look.

    `is_ended` says whether nobody may wait any more; `hear_end` is to announce it if the connection is over.
    """

    def __init__(
        self, sock: socket.socket, is_ended: Callable[[], bool], hear_end: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._hear_end = hear_end
        self._scopes: dict[anyio.CancelScope, Callable[[], bool]] = {}
        self._is_reading = False
        self._is_ended = is_ended
        self._is_closing = False
        self._bell: Bell | None = None

    @property
    def are_in_use(self) -> bool:
        """Whether tasks wait here."""
        return bool(self._scopes) or (self._bell is not None and bool(self._bell.notices))

    def bell(self, ledger: ClientLedger) -> Bell | None:
        """Return the bell of the ledger; None on trio."""
        if self._bell is None and running_loop() is not None:
            self._bell = Bell(ledger, self._sock, self._scopes, self._is_ended, self._hear_end)
        return self._bell

    def close(self, ledger: ClientLedger) -> None:
        """Close the event; on trio when the last task that waits for it has gone on."""
        self._is_closing = True
        if self._bell is not None:
            self._bell.close()
        elif not self._scopes:
            ledger.close()

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
                else:
                    await self._wait(ledger)
        finally:
            self._scopes.pop(scope, None)
            position.reader._disarm(slot)
            if self._is_closing and not self._scopes:
                self.close(ledger)

    def announce(self, *, is_failed: bool) -> None:
        """Wake the tasks whose wait is over; all that have a notice, if the connection `is_failed`."""
        for scope, is_over in self._scopes.items():
            if is_over():
                scope.cancel()
        if self._bell is not None:
            self._bell.announce(is_failed=is_failed)

    async def _wait(self, ledger: ClientLedger) -> None:
        bell = self.bell(ledger)
        if bell is not None:
            bell.start()
        if bell is not None or self._is_reading:
            await anyio.sleep_forever()
        self._is_reading = True
        try:
            await anyio.wait_readable(ledger.fileno())
            if not ledger.clear():
                await anyio.sleep(PAUSE_S)
        finally:
            self._is_reading = False
            self._wake_all()  # one of them reads from now on

    def _wake_all(self) -> None:
        for scope in self._scopes:
            scope.cancel()
