"""The system calls of a session: it yields each as a Work, and gets the result sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from shmprotocol.tuples import NamedTuple


class Sealing(NamedTuple):
    """The arguments of a sealer's `seal`."""

    writer: int
    reader: int
    cut: bool
    capacity: int
    header: bytes
    seals: int


@dataclass(frozen=True, slots=True)
class Work:
    """A call whose result is sent into the generator.

    `is_quick`: no client can make it wait. `is_retry`: an earlier attempt failed, so first attempts go ahead.
    `sealing`: a sealer may do that in place of the call; what it says is the result then.
    `can_be_left`: a successor does not wait for it, refuses the request, and frees what no session has.
    """

    call: Callable[[], Any]
    is_quick: bool
    is_retry: bool = False
    sealing: Sealing | None = None
    can_be_left: bool = False


Steps = Generator[Work, Any, None]

# Yielded in the middle of something long, so that others go first.
PAUSE = Work(lambda: None, is_quick=True)

# Yielded by a session whose client is the host's successor: wait until nothing is under way; pass all on.
SETTLE = Work(lambda: None, is_quick=False)
PASS_ON = Work(lambda: None, is_quick=False)


def run_to_end(work: Iterator[None]) -> None:
    """Do all of a work now."""
    for _ in work:
        pass


def run_now(_uid: int, work: Iterator[None]) -> bool:
    """Do all of a work of a user now; return True."""
    run_to_end(work)
    return True
