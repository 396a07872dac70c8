"""A host without sockets, and conversations with it: each message in, the replies out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

from shmhost.core.accounts import Accounts
from shmhost.core.hub import Hub
from shmhost.core.objects import Memfd
from shmhost.core.peers import Peer
from shmhost.core.registry import Registry
from shmhost.core.resources import Totals
from shmhost.core.session import Session
from shmhost.core.window import STEP, Allocator
from shmhost.core.work import Work
from shmhost.serving.sealing import Sealers
from shmhost.serving.workers import attempt
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, Packed

CREATE = m.Create(1, "x", 100, "full", "memfd", 0o600, True)


class World:
    """A hub without a server: Work is done at once."""

    def __init__(self) -> None:
        clock = itertools.count(1)
        registry = Registry(
            Allocator(((1 << 40, 64 * STEP),)),
            Accounts(Totals(1 << 30), {0, 7}),
            lambda: next(clock),
            lambda memory_object: memory_object.close(),
        )
        self.hub = Hub(registry, "host", lambda _backend, name, capacity: Memfd(name, capacity))
        self.sealers: Sealers | None = None

    def taken(self) -> tuple[int, int]:
        """Return the bytes charged and the free addresses."""
        registry = self.hub.registry
        return registry.accounts.bytes.used, registry.allocator.windows[0].free()

    def client(self, *, greet: bool = True, uid: int = 7) -> Talk:
        talk = Talk(self.hub, uid, self.sealers)
        if greet:
            talk.say(m.Hello(1, m.VERSION, m.VERSION, "test"))
        return talk


class Talk:
    def __init__(self, hub: Hub, uid: int, sealers: Sealers | None = None) -> None:
        self._sealers = sealers
        self.replies: list[tuple[m.Message, Sequence[int]]] = []
        self.session = Session(hub, Peer(uid, 70), lambda message, fds, *_: self.send(message, fds))

    def send(self, message: m.Message, descriptors: Sequence[int]) -> None:
        if isinstance(message, Packed):
            connection = Connection("client")
            connection.receive(message.frame)
            ((message, _),) = connection.messages()
        self.replies.append((message, descriptors))

    def say(self, message: m.Message) -> Any:
        """Have a message handled, its Work too; return the last reply there is."""
        steps = self.session.handle(message)
        if steps is not None:
            try:
                work = next(steps)
                while True:
                    result, error = attempt(partial(self._do, work))
                    work = steps.send(result) if error is None else steps.throw(error)
            except StopIteration:
                pass
        return self.last()

    def _do(self, work: Work) -> Any:
        if work.sealing is None or self._sealers is None:
            return work.call()
        said = self._sealers.seal(7, work.is_retry, work.sealing)
        return said() if callable(said) else said

    def last(self) -> Any:
        return self.replies[-1][0] if self.replies else None

    def publish(self, name: str) -> m.Published:
        created = self.say(CREATE._replace(name=name))
        published = self.say(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0))
        assert isinstance(published, m.Published)
        return published
