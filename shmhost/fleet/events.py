"""The words of the engine to the rest of a host: who comes and goes, and what others say and ask. Pure."""

from __future__ import annotations

from collections.abc import Callable

from shmprotocol.errors import ShmError
from shmprotocol.tuples import NamedTuple

BUSY = "busy"  # refusals begin with it that are not for long


class Absent(NamedTuple):
    """A host has gone, or cannot be reached any more."""

    address: str


class Present(NamedTuple):
    """A host has come into sight."""

    address: str


class News(NamedTuple):
    """A message that a host has sent to all."""

    address: str
    data: bytes


class Lost(NamedTuple):
    """Events were dropped, as they came faster than they were taken."""


class Question(NamedTuple):
    """A message that a host wants an answer to: one call of `reply`, `work` or `refuse`, from any thread.

    `work` takes a function that a thread calls for the answer; its errors are refusals. `asker` is the name
    of the host; with an access list, that in its certificate.
    """

    asker: str
    data: bytes
    reply: Callable[[bytes], None]
    work: Callable[[Callable[[], bytes]], None]
    refuse: Callable[[str], None]


Event = Absent | Present | News | Lost | Question


class Refusal(ShmError):
    """A peer has answered a question with a refusal."""
