"""Refusals of the requests of one client, and the request that is under way. Knows no socket or clock."""

from __future__ import annotations

from shmhost.core.holders import text_of
from shmhost.core.hub import Hub
from shmhost.core.leases import Send
from shmhost.core.objects import refusal_of
from shmhost.core.peers import Peer
from shmhost.core.work import PAUSE, Steps
from shmprotocol.errors import (
    OutOfMemory,
    QuotaExceeded,
    RegionBusy,
    RemoteProtocolError,
    ShmError,
    Unsupported,
)
from shmprotocol.wire import messages as m

LEFT = (
    "another host has taken over while the region was being sealed, which took too long: put or publish it "
    "again, once nothing writes to it and no I/O holds its pages"
)


class Refusals:
    """The refusals of one client's requests. `send` is as for a Session."""

    __slots__ = ("_hub", "_peer", "_send", "pending")

    def __init__(self, hub: Hub, peer: Peer, send: Send) -> None:
        self._hub = hub
        self._peer = peer
        self._send = send
        self.pending: int = 0  # the request that is under way; 0: none

    def guarded(self, request: int, steps: Steps) -> Steps:
        """Run the steps of a request; refuse it with the error that they end with."""
        self.pending = request
        try:
            yield from steps
        except RemoteProtocolError:
            raise
        except (ShmError, OSError) as error:
            if isinstance(error, QuotaExceeded):
                yield PAUSE  # † to say who has how much takes 40 us
            self.fail(request, error)
        finally:
            self.pending = 0

    def fail(self, request: int, error: ShmError | OSError) -> None:
        """Refuse a request because of an error, also one of the system."""
        self._refuse(request, error if isinstance(error, ShmError) else refusal_of(error, "answer"))

    def _refuse(self, request: int, error: ShmError) -> None:
        self._hub.meter.refusals[error.code] += 1
        if isinstance(error, OutOfMemory | Unsupported):
            self._hub.warn(self._peer, error)
        self._send(m.Refused(request, error.code, text_of(error, self._hub.registry, self._peer)), ())

    def refuse_pending(self) -> None:
        """Refuse the request that was under way at another host, which did not wait for its end."""
        if self.pending:
            request, self.pending = self.pending, 0
            self.fail(request, RegionBusy(LEFT))
