"""The event of a ledger in a loop of asyncio: it is watched once, and wakes the tasks whose values have come.

Tasks of trio take the plain road: see `rests`.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from contextvars import Context
from typing import Any, Literal

import anyio

from shmclient._arenas.reader import ClientLedger, Reader
from shmprotocol.errors import ShmError
from shmprotocol.native.builtins import HeldValue

LOOK_AGAIN_S = 1.0  # for an arena that another one has replaced: its owner wakes nobody any more
PAUSE_S = 0.02  # when an owner has shut the event, which all owners share: it is readable for ever then
_NEVER_S = 1e6  # longer waits are taken for endless

_Callback = Callable[[Any], object]


class Notice(asyncio.Future["HeldValue | None"]):
    """The wait of one task for a value of an arena; None: the plain road is to go on.

    A plain future has its task go on a turn of the loop later, which costs a fifth of a notice. This one goes
    on with it in the callback of the event, where no task runs, as the loop itself would.
    """

    _wakeup: tuple[_Callback, Context] | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self, bell: Bell, reader: Reader, name: str, after: int, slot: int, is_over: Callable[[], bool]
    ) -> None:
        super().__init__(loop=bell.loop)
        self._bell = bell
        self.reader = reader
        self.name = name
        self.after = after
        self._slot = slot
        self.is_over = is_over
        bell.notices[self] = None

    def expire_after(self, wait_s: float) -> None:
        """Have the wait end then."""
        if wait_s < _NEVER_S:
            self._timer = self.get_loop().call_later(wait_s, self.give, None)

    def give(self, held: HeldValue | None, *, at_once: bool = False) -> None:
        """Wake the task, if it waits still."""
        if self.done():
            return
        self._end()  # first: the task may close the client
        self.set_result(held)
        if self._wakeup is not None and at_once:
            self._wakeup[1].run(self._wakeup[0], self)
        else:
            self._wake_later()

    def look(self) -> HeldValue | Literal[False] | None:
        """Return the value, or None if the plain road is to go on; False: there is nothing yet."""
        try:
            held = self.reader._newer(self.name, self.after)
        except (ShmError, OSError, MemoryError):  # which the task meets on the plain road; others must wake
            return None
        return None if held is False and self.is_over() else held

    def cancel(self, msg: Any = None) -> bool:
        if not super().cancel(msg):
            return False
        self._end()
        self._wake_later()
        return True

    def _wake_later(self) -> None:
        if self._wakeup is not None:
            callback, context = self._wakeup
            self.get_loop().call_soon(callback, self, context=context)

    def _end(self) -> None:
        if self._bell.notices.pop(self, self) is self:  # Ctrl-C came in here before
            return
        self.reader._disarm(self._slot)
        if self._timer is not None:
            self._timer.cancel()

    def add_done_callback(self, callback: _Callback, /, *, context: Context | None = None) -> None:
        """Take the first callback, that of the task which awaits this, to be called by `give`."""
        if self._wakeup is None and context is not None and not self.done():
            self._wakeup = callback, context
        else:
            super().add_done_callback(callback, context=context)

    def remove_done_callback(self, callback: _Callback, /) -> int:
        count = super().remove_done_callback(callback)
        if self._wakeup is None or self._wakeup[0] != callback:
            return count
        self._wakeup = None
        return count + 1


class Bell:
    """The watched event of a ledger. For one loop, and its thread.

    `scopes` are those of tasks that look themselves with each event; `is_ended` says whether nobody may wait
    any more. `hear_end` is called when the connection may have ended, and announces it. Tasks may wait on
    then, in `scopes`, for values whose owner lives.
    """

    def __init__(
        self,
        ledger: ClientLedger,
        sock: socket.socket,
        scopes: dict[anyio.CancelScope, Callable[[], bool]],
        is_ended: Callable[[], bool],
        hear_end: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.notices: dict[Notice, None] = {}  # in their order
        self._ledger = ledger
        self._scopes = scopes
        self._is_ended = is_ended
        self._hear_end = hear_end
        self._end = hang_up_of(sock)  # None: it is heard, or looked for each second
        self._timer: asyncio.TimerHandle | None = None  # set while the loop watches the event
        self._was_used = False

    def notice(
        self, reader: Reader, name: str, after: int, wait_s: float, is_over: Callable[[], bool]
    ) -> Notice | HeldValue | None:
        """Return what to await for a value, or the value; None: the plain road is to go on."""
        self.start()
        slot = reader._arm_for(name, after)
        if not isinstance(slot, int):
            return slot
        if slot == 0:
            return None
        notice = Notice(self, reader, name, after, slot, is_over)
        notice.expire_after(wait_s)
        return notice

    def start(self) -> None:
        """Have the loop watch the event, for at least a second."""
        self._was_used = True
        if self._timer is None and not self._is_ended():
            self.loop.add_reader(self._ledger.fileno(), self._ring)
            self._timer = self.loop.call_later(LOOK_AGAIN_S, self._look_again)
            if self._end is not None:
                self.loop.add_reader(self._end.fileno(), self._hang_up)

    def close(self) -> None:
        """Close the event, and have all tasks go on. From any thread."""
        if running_loop() is self.loop:
            self._close()
            return
        try:
            self.loop.call_soon_threadsafe(self._close)
        except RuntimeError:  # the loop is closed
            self._ledger.close()

    def _close(self) -> None:
        self.announce()
        self._stop()
        self._forget_end()
        self._ledger.close()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.loop.remove_reader(self._ledger.fileno())
            if self._end is not None:
                self.loop.remove_reader(self._end.fileno())

    def announce(self, *, is_failed: bool = False) -> None:
        """Have the tasks whose wait is over go on, later; all of them if the connection is."""
        is_over = is_failed or self._is_ended()
        for notice in list(self.notices):
            if is_over or notice.is_over():
                notice.give(None)

    def _hang_up(self) -> None:
        if self._end is not None:
            self.loop.remove_reader(self._end.fileno())
        self._forget_end()
        self._hear_end()

    def _forget_end(self) -> None:
        if self._end is not None:
            self._end.close()
            self._end = None

    def _ring(self) -> None:
        """Wake those whose values have come; then take what owners have written, which nobody waits for."""
        try:
            self._wake()
        finally:
            if self._timer is not None and not self._ledger.take():
                self.loop.remove_reader(self._ledger.fileno())
                self.loop.call_later(PAUSE_S, self._listen_again)

    def _wake(self) -> None:
        """Wake the tasks whose values have come, or that must look themselves."""
        looks = [(notice, notice.look()) for notice in list(self.notices)]  # a signal's handler may end some
        news = [(notice, held) for notice, held in looks if held is not False]
        at_once = asyncio.current_task(self.loop) is None
        try:
            while news:
                notice, held = news.pop(0)
                notice.give(held, at_once=at_once)
        finally:  # Ctrl-C in one of the tasks ends the loop, not the others
            for notice, held in news:
                notice.give(held)
            for scope in list(self._scopes):
                scope.cancel()

    def _listen_again(self) -> None:
        if self._timer is not None:
            self.loop.add_reader(self._ledger.fileno(), self._ring)
            self._wake()

    def _look_again(self) -> None:
        """Look once a second for what raises no event; stop when nobody has waited since the last time."""
        if self._is_ended():
            self._close()
        elif not self._was_used and not self.notices and not self._scopes:
            self._stop()
        if self._timer is None:
            return
        self._hear_end()
        self._was_used = False
        self._timer = self.loop.call_later(LOOK_AGAIN_S, self._look_again)
        self._wake()


def hang_up_of(sock: socket.socket) -> select.epoll | None:
    """Return what is readable once the peer of a socket is gone, though it may have said more before.

    A loop watches for data, or for room. None: there is no descriptor for it.
    """
    try:
        end = select.epoll()
    except OSError:
        return None
    try:
        end.register(sock, select.EPOLLRDHUP)
    except (OSError, ValueError):  # it is closed
        end.close()
        return None
    return end


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop of the running task of asyncio; None in a task of trio, also as a guest of asyncio."""
    with contextlib.suppress(RuntimeError):
        return None if asyncio.current_task() is None else asyncio.get_running_loop()
    return None
