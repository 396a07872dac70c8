"""The messages about a host that takes the place of another, since version 4; see `messages`."""

from typing import NamedTuple


class Takeover(NamedTuple):
    """Ask the host for all that it has, as its successor. The reply is Done, or a refusal.

    `state` is the number of the form in which the two hosts say it: nothing but this number is fixed by the
    protocol. `package` is the version of the successor's package, `windows` its windows. The connection is
    the two hosts' own after Done.
    """

    id: int
    state: int
    package: str
    windows: tuple[tuple[int, int], ...]


class FindBoard(NamedTuple):
    """Ask for the board of the process that serves by now. The reply is BoardFound."""

    id: int


class BoardFound(NamedTuple):
    """The reply to FindBoard, with the read-only descriptor; `board` is as in Welcome.

    The lines have the numbers that they had on the board before.
    """

    id: int
    board: tuple[int, int]
