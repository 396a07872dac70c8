"""An arena as the sync client sees it. Any thread may use it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

from shmclient._arenas.held import ArenaValue
from shmclient._arenas.reader import Reader
from shmclient._arenas.view import ArenaChange, BaseArenaView
from shmclient._connection.retry import Retry
from shmclient._drivers import arena_waits
from shmclient._drivers.awaited import Since, awaited_in, never
from shmprotocol.errors import ClientClosed, HostGone, HostTimeout


class ArenaView(BaseArenaView):
    """The values of an arena: a read-only mapping, whose look-ups make no system call.

    It follows the name: if another arena takes its place, the next look-up is in that one. Without a host the
    last arena is read on.
    """

    def wait(self, name: str, *, after: int = 0, wait: float = math.inf) -> ArenaValue:
        """Return a handle of the value of a name once its generation is greater than `after`.

        Sleeps in the kernel meanwhile, and the owner's next value wakes it. If another arena takes the place
        of this one meanwhile, any value of the name in that. WaitTimeout after `wait` seconds.
        """
        retry, short = Retry(wait), awaited_in(self._client._core.channel, self._reader, name, after)
        if short is not None and (held := short.channel.await_value(short, retry, never)) is not None:
            handle: ArenaValue = short.handle(held)
            return handle
        full, since = f"{self.name}/{name}", Since(after, self._reader)
        operation = self._client._core.run_waiting(
            lambda context, retry: arena_waits.value_after(context, self.name, name, since, retry),
            retry,
            lambda: since.newer(full),
            lambda: since.position(full),
        )
        value: ArenaValue = self._client._drive(operation)
        self._reader = value._reader
        return value

    def changes(self, *, since: int | None = None, wait: float = math.inf) -> Iterator[ArenaChange]:
        """Yield each change of a name after the generation `since`, by default from now on, in their order.

        Of several changes of a name in between, only the newest. It ends by `close`, and when nothing has
        changed for `wait` seconds. It looks at all names when something has changed: 10 ms for 100,000.
        """
        source = arena_waits.Changes(self._now(), self.generation if since is None else since)
        self._sources.add(source)
        try:
            while True:
                operation = self._client._core.run_waiting(source.next, wait, source.ready, source.position)
                changes: list[ArenaChange] = self._client._drive(operation)
                if not changes:
                    return
                yield from changes
        finally:
            self._sources.discard(source)

    def close(self) -> None:
        """End iterations over changes, in other threads too. Values stay valid."""
        for source in list(self._sources):
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        from shmclient._drivers.references import reduce_view

        return reduce_view(self)

    def _now(self) -> Reader:
        reader = self._reader
        core = self._client._core
        if reader.is_granted() or core.is_alone(reader.current):
            return reader
        try:
            self._reader = reader = self._client._drive(core.open_arena(self.name, None, self._anywhere))
        except (HostGone, HostTimeout, ClientClosed):
            if not reader.was_current():
                raise
            core.note_absence()
        return reader

    _sources: set[arena_waits.Changes]


def make_view(client: Any, reader: Reader, anywhere: bool) -> ArenaView:
    """Return a view of an arena for a sync client."""
    view = ArenaView.__new__(ArenaView)
    view._begin(client, reader, anywhere)
    view._sources = set()
    return view
