"""Watched and followed names, for both clients. The waiting parts are imported when they are used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from shmclient._codecs.libraries import LibraryName

if TYPE_CHECKING:
    from shmclient._drivers.async_streams import AsyncFollow, AsyncWatch
    from shmclient._drivers.streams import Follow, Watch


class News:
    """The part of the sync client that tells of changes."""

    _drive: Any

    def watch(self, prefix: str = "", *, wait: float | None = None) -> Watch:
        """Return an iterator of the changes of all names with a prefix, from now on.

        It never ends by itself. When the host stops, it raises HostGone; with a `wait`, it continues at the
        next host, and raises WaitTimeout if there is none for that many seconds (`math.inf`: never). It
        then reports the changes in between: `unlinked` for each missing name, with its last known state,
        `published` for each name with another region, `changed` for another mode. Of several
        generations in between, only the last is reported. `close`, or the end of a `with` block,
        ends it, on any thread; closing the client ends it with ClientClosed.
        """
        from shmclient._drivers.stream import watched
        from shmclient._drivers.streams import Watch

        watch = watched(Watch, self, prefix, wait)
        self._drive(watch._start())
        return watch

    def follow(
        self,
        name: str,
        *,
        wait: float | None = math.inf,
        anywhere: bool = False,
        as_: LibraryName | None = None,
    ) -> Follow:
        """Return an iterator of the value of a name: the current one, then each newer one.

        It never ends by itself, and continues at the next host when the host stops. Of several generations
        in between, it yields only the newest, and never one that is older than the last. If the name is
        unlinked, it waits. `wait` is the longest absence of the name or the host, in seconds; after that
        it raises WaitTimeout, and the next step waits again. None: no absence is allowed, so that
        RegionNotFound or HostGone is raised. `as_` and other errors as for `get`; it ends as a `watch` does.
        """
        from shmclient._drivers.stream import followed
        from shmclient._drivers.streams import Follow

        return followed(Follow, self, name, wait, as_, anywhere=anywhere, can_sleep=True)


class AsyncNews:
    """The part of the async client that tells of changes."""

    def watch(self, prefix: str = "", *, wait: float | None = None) -> AsyncWatch:
        """Return an async iterator of changes: from `await` or `async with` on, or from the first step."""
        from shmclient._drivers.async_streams import AsyncWatch
        from shmclient._drivers.stream import watched

        return watched(AsyncWatch, self, prefix, wait)

    def follow(
        self,
        name: str,
        *,
        wait: float | None = math.inf,
        anywhere: bool = False,
        as_: LibraryName | None = None,
    ) -> AsyncFollow:
        """Return an async iterator of the value of a name: the current one, then each newer one."""
        from shmclient._drivers.async_streams import AsyncFollow
        from shmclient._drivers.stream import followed

        return followed(AsyncFollow, self, name, wait, as_, anywhere=anywhere, can_sleep=False)
