"""The common part of the sync and the async channel: state, end, requests given up."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

from shmclient._arenas.reader import ClientLedger
from shmclient._connection.exchange import Exchange, Pending
from shmclient._connection.outbox import Outbox
from shmclient._connection.socket import detach_after_fork
from shmclient._drivers.answers import dispose
from shmclient._drivers.steps import Context
from shmprotocol.errors import ClientClosed, HostGone, HostTimeout, WaitTimeout
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m

GRACE_S = 0.1  # for the host to answer that a wait is over: its one reply may be what was waited for


class BaseChannel:
    """A connected socket. Closed by `close`, or with the last lease after that.

    `guard` serialises the calls of the exchange, `wake` has those who wait look again at what they wait for.
    """

    def __init__(
        self,
        sock: socket.socket,
        close_socket: Callable[[], None],
        wake: Callable[[], None],
        guard: AbstractContextManager[object],
    ) -> None:
        self._exchange = Exchange()
        self.outbox = Outbox(sock, close_socket)
        self.context = Context(self.outbox, self._exchange, wake)
        self._guard = guard
        self._is_ending = False  # EOF is pending; whoever reads must consume it
        detach_after_fork(self, type(self).detach)

    def is_alive(self) -> bool:
        """Whether a request may be sent: also looks for the end of a host that went while nobody asked."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection; what is mapped keeps it open until its last view goes.

        Waits and watches of other threads and tasks end with ClientClosed.
        """
        self.context.spares.close()
        self.context.arenas.clear()  # values keep their own
        self._exchange.ledger.close()
        reason = ClientClosed("the client is closed: connect again")
        with self._guard:
            targets = self._exchange.end_waits(reason)
        for target in targets:
            self.context.cancel(target)
        self.outbox.close(reason)
        self.context.wake()
        if self.context.ledger is not None:
            self._close_event(self.context.ledger)

    def _close_event(self, ledger: ClientLedger) -> None:
        ledger.close()

    def retire(self) -> None:
        """Take no more requests: Ctrl-C came where this connection may have lost count of what it holds.

        The socket closes with the last lease that is known, and with the socket the unknown ones end.
        """
        self.context.spares.close()
        self.outbox.close(HostGone("Ctrl-C came in the middle of a request: this connection is over"))

    def detach(self) -> None:
        """In the child of a fork: let go of the parent's connection."""
        self._exchange.fail(HostGone("this connection belongs to the parent process"))
        self.outbox.detach()
        self.context.spares.close()
        self.context.arenas.clear()

    def _abandon(self, pending: Pending) -> None:
        with self._guard:
            orphan = self._exchange.abandon(pending)
        if orphan is not None:
            dispose(self.context, *orphan)
        elif pending.is_wait():
            self.context.cancel(pending.request.id)

    def _end_if_failed(self) -> None:
        if self._exchange.failure is not None:
            self.context.spares.close()
            descriptors.close_all(self._exchange.drain())
            self.outbox.shut()


def unsent(timeout_s: float) -> HostTimeout:
    """Return the error of a request that the host did not take in time."""
    return HostTimeout(f"the host accepted no request for {timeout_s} s: is it stopped?")


def unanswered(request: m.Message, timeout_s: float) -> HostTimeout:
    """Return the error of a request that the host did not answer in time."""
    name = type(request).__name__
    return HostTimeout(f"the host did not answer {name} for {timeout_s} s: is it stopped?")


def late(wait_s: float) -> WaitTimeout:
    """Return the error of a wait that a host did not end in time."""
    return WaitTimeout(f"the host answered nothing for {wait_s:.3g} s: is it stopped?")
