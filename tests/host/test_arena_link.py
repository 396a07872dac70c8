"""The control socket of an arena: its end, which is done in parts while there are other users."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from test_turns import run, until

from shmhost.core.accounts import Accounts
from shmhost.core.peers import Peer
from shmhost.core.resources import Totals
from shmhost.core.work import Steps, Work
from shmhost.serving.arena_link import MESSAGE, ArenaLink
from shmhost.serving.closing import Closer
from shmhost.serving.turns import Turns
from shmhost.serving.unread import Flight
from shmprotocol.wire.names import ARENA_READY


class Owner:
    """An owner whose messages are each a Work for a thread."""

    number = 1

    def __init__(self) -> None:
        self.peer = Peer(7, 7)
        self.log: list[str] = []

    def handle(self, kind: int, size: int) -> Steps:
        yield Work(lambda: None, is_quick=False)
        self.log.append("handled")

    def ended(self, *, is_by_owner: bool) -> None:
        self.log.append("ended")


class Rig:
    """A control socket, and the Work that waits to be carried out."""

    def __init__(self, stack: ExitStack, *users: int) -> None:
        self.turns, self.owner = Turns(), Owner()
        self._others = [self.turns.of(uid) for uid in users]
        self.work: list[Steps] = []
        self.closed: list[ArenaLink] = []
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(self.theirs)
        share, turn = Flight(Accounts(Totals(1))).owners_share(7), self.turns.of(7)
        self.link = ArenaLink(self.owner, self._start, Closer(), share, turn, self.closed.append, ours)

    def _start(self, _link: object, steps: Steps, _work: Work) -> Callable[[], bool]:
        self.work.append(steps)
        return lambda: False  # it has begun

    def is_shut(self) -> bool:
        try:
            return not self.theirs.recv(100, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False


@pytest.mark.parametrize("users", [(), (8,)])
def test_owner_whose_process_goes_has_ended_once(users: tuple[int, ...]) -> None:
    async def main(stack: ExitStack) -> None:
        rig = Rig(stack, *users)
        rig.theirs.shutdown(socket.SHUT_WR)
        await until(lambda: bool(rig.closed))
        assert rig.owner.log == ["ended"]
        await until(rig.is_shut)

    run(main)


@pytest.mark.parametrize("users", [(), (8,)])
def test_owner_whose_work_ends_while_its_end_waits_has_ended_once(
    users: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async def main(stack: ExitStack) -> None:
        rig = Rig(stack, *users)
        rig.theirs.send(MESSAGE.pack(ARENA_READY, 0, 0, 0))
        await until(lambda: bool(rig.work))
        rig.link.close()
        assert rig.owner.log == []
        rig.link.resume(rig.work.pop(), (None, None))
        await until(rig.is_shut)
        for _ in range(10):
            await until(lambda: True)
        rig.turns.finish()
        assert rig.owner.log == ["handled", "ended"]
        assert rig.closed == [rig.link]
        assert caplog.text == ""

    run(main)


def test_socket_is_shut_later_while_there_are_other_users() -> None:
    async def main(stack: ExitStack) -> None:
        rig = Rig(stack, 8)
        rig.link.close()
        assert (rig.owner.log, rig.is_shut()) == (["ended"], False)
        rig.turns.finish()
        assert (rig.owner.log, rig.is_shut()) == (["ended"], True)

    run(main)
