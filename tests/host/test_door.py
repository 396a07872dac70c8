"""The door: connections are accepted in the turn of the user who came last, or at once."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_turns import run, until

from shmhost.serving import turns as turns_module
from shmhost.serving.closing import Closer
from shmhost.serving.door import Door
from shmhost.serving.turns import Turn, Turns


class Rig:
    """A door, with clients that wait at it, and a log of who was admitted."""

    def __init__(self, folder: Path, stack: ExitStack, clients: int) -> None:
        self.log: list[str] = []
        self.latest: Turn | None = None
        self._stack = stack
        path = str(folder / "door.sock")
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(100)
        listener.setblocking(False)
        self.door = Door(listener, Closer(), self._admit, lambda: self.latest)
        stack.callback(self.close)
        self._is_open = True
        for _ in range(clients):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)

    def _admit(self, sock: socket.socket) -> None:
        self._stack.enter_context(sock)
        self.log.append("admitted")

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self.door.close()

    def count_rounds(self) -> None:
        self.log.append("round")
        asyncio.get_running_loop().call_soon(self.count_rounds)


def test_connection_is_accepted_at_once_when_nobody_came_lately(tmp_path: Path) -> None:
    async def main(stack: ExitStack) -> None:
        rig = Rig(tmp_path, stack, clients=3)
        await until(lambda: rig.log.count("admitted") == 3)

    run(main)


def test_user_who_asks_and_connects_has_no_more_turns_than_one_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes during its slice waits for that, and for no connection in the next round."""
    for name, value in {"ALONE_NS": -1, "SHARED_NS": -1, "REST_NS": 10**12}.items():
        monkeypatch.setattr(turns_module, name, value)

    async def main(stack: ExitStack) -> None:
        rig, turns = Rig(tmp_path, stack, clients=20), Turns()
        _other, turn = turns.of(8), turns.of(7)
        rig.latest = turn
        ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
        theirs.send(b"x")
        turn.add(ours.fileno(), lambda: rig.log.append("served"))
        rig.count_rounds()
        await until(lambda: rig.log.count("admitted") == 20)
        turn.remove(ours.fileno())
        in_rounds = [entries.split() for entries in " ".join(rig.log).split("round")[2:]]
        assert {len(entries) for entries in in_rounds} == {0, 1}
        assert rig.log.count("served") >= 15  # it is not kept from asking
        assert sum(map(len, in_rounds)) <= 0.6 * len(in_rounds)

    run(main)


def test_door_that_was_closed_accepts_nobody_who_waits_for_a_turn(tmp_path: Path) -> None:
    async def main(stack: ExitStack) -> None:
        rig, turn = Rig(tmp_path, stack, clients=1), Turns().of(7)
        rig.latest = turn
        await until(lambda: bool(turn._later))
        rig.close()
        turn.later(lambda: rig.log.append("later"))
        await until(lambda: rig.log.count("later") == 1)
        assert rig.log == ["later"]

    run(main)
