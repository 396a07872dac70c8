"""The parts that all roads of a value to a worker have in common. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import shmclient

Takers = Mapping[str, Callable[[Any], Any]]


class Road(NamedTuple):
    """A road: what makes the message of a new value, and of the same once more. Both are timed.

    `prepare` comes before each new value, and is not. A packed message is bytes, which go as they are.
    """

    key: str
    new: Callable[[], Any]
    again: Callable[[], Any]
    prepare: Callable[[], object] = lambda: None
    is_packed: bool = False


class Sender(NamedTuple):
    """The means of a sender of values."""

    shm: shmclient.Client
    arena: shmclient.Arena
    folder: Path  # in memory


class Kind(NamedTuple):
    """A kind of values: how one of some bytes is made and read, the roads that it takes, and why not others.

    `takers` makes the value of a message in the worker, by the road. ImportError of `make`: it cannot be had.
    """

    name: str
    title: str
    make: Callable[[int], Any]
    whole: Callable[[Any], float]  # reads all numbers
    first: Callable[[Any], float]  # reads one
    roads: Callable[[Sender, Any], list[Road]]
    takers: Callable[[shmclient.Client], Takers]
    notes: Mapping[str, str]


def own_roads(sender: Sender, name: str, value: Any, *, is_object: bool = False) -> list[Road]:
    """Return the roads by a region's name, by an arena, and by a reference."""
    shm, arena = sender.shm, sender.arena
    put, put_there = (shm.put_object, arena.put_object) if is_object else (shm.put, arena.put)
    again = put(f"{name}-again", value)

    def by_name() -> str:
        put(name, value).close()
        return name

    def in_arena() -> str:
        put_there(name, value)
        return f"{arena.name}/{name}"

    return [
        Road("shmhost", by_name, lambda: name),
        Road("arena", in_arena, lambda: f"{arena.name}/{name}"),
        Road("reference", lambda: put(f"{name}-sent", value), lambda: again),
    ]


def by_pipe(dumped: Callable[[], bytes]) -> Road:
    """Return the road of a pickle through a pipe, which is the same each time."""
    return Road("pipe", dumped, dumped, is_packed=True)
