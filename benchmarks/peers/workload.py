"""The shape of a workload, and what many of them share. It knows no peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.team import Team, Worker

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Scale:
    """How much is measured: the smoke test takes tiny values, a run the defaults."""

    rounds: int = 10
    budget_s: float = 0.06  # of a peer in a round
    samples: int = 300  # at most, of a peer in a round
    largest: int = GIB
    objects: int = 10_000
    clients: tuple[int, ...] = (1, 16, 128, 1000)
    attaches: int = 2000
    notices: int = 60
    turns: int = 40
    readers: int = 8


@dataclass(frozen=True)
class Workload:
    """A row: `prepare` runs once for a peer, `measure` in each round and gives samples, `finish` at the end.

    `each_round`: prepare and finish in each round, so that only one peer at a time has large values.
    """

    key: str
    title: str
    prepare: Callable[[Team], Any]
    measure: Callable[[Team, Any], list[float]]
    finish: Callable[[Team, Any], None]
    unit: str = "us"
    rounds: int = 0  # at most; 0: those of the scale
    each_round: bool = False
    more_is_better: bool = False


def text(size: int) -> str:
    """Write a size in the largest unit that fits."""
    for unit, bytes_of in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= bytes_of:
            return f"{size // bytes_of} {unit}"
    return f"{size} B"


def nothing(_: Team) -> None:
    """Prepare nothing."""


def done(_: Team, __: Any) -> None:
    """Leave nothing to finish."""


def published(name: str, size: int) -> Callable[[Team], str]:
    return lambda team: str(team.owner.ask("put", name=name, size=size))


def remove(name: str) -> Callable[[Team, Any], None]:
    return lambda team, _: team.owner.ask("remove", names=[name])


def remove_many(team: Team, prefix: str, count: int) -> None:
    team.owner.ask("remove_many", prefix=prefix, count=count)


def interrupt(worker: Worker) -> None:
    """End a step that goes on until the next command comes."""
    worker.send("remove", names=[])
    worker.answer()
    worker.answer()
