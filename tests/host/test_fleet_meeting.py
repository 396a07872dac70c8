"""How hosts meet that do not see each other: by what a third one says, whatever it says."""

from __future__ import annotations

import asyncio

import pytest

from shmhost.fleet import meeting
from shmhost.fleet.members import Members
from shmhost.fleet.messages import FORM, Card, pack

OWN, OTHER, THIRD = "a" * 32, "b" * 32, "c" * 32


class Engine:
    """Answers one question after the other; `introduced` is set once it is to introduce hosts."""

    def __init__(self, *answers: bytes) -> None:
        self.introduced = asyncio.Event()
        self._answers = list(answers)
        self._loop = asyncio.get_running_loop()

    async def ask(self, _address: str, _question: bytes, _timeout_s: float) -> bytes:
        return self._answers.pop(0)

    def introduce(self) -> None:
        self._loop.call_soon_threadsafe(self.introduced.set)


@pytest.mark.parametrize("wrong", [b"\xc1", pack(5), pack("b" * 17)])
def test_host_looks_for_others_after_a_wrong_answer(monkeypatch: pytest.MonkeyPatch, wrong: bytes) -> None:
    monkeypatch.setattr(meeting, "FIRST_S", 0.001)

    async def run() -> None:
        members, engine = Members(), Engine(wrong, pack(THIRD[:16]))
        own, card = (Card(FORM, each, each[0], (), 8, 4096, (1, 0), None, False, 0) for each in (OWN, OTHER))
        members.take(own, card, 0.0)
        task = asyncio.create_task(meeting.Meeting(engine, members, OWN).run())  # type: ignore[arg-type]
        introduced = asyncio.create_task(engine.introduced.wait())
        await asyncio.wait([task, introduced], timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert introduced.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
