"""The messages about references: regions that cross to other processes by their numbers, since version 5."""

from shmprotocol.tuples import NamedTuple


class Keep(NamedTuple):
    """Ask that a region stays for one reference to it, also without this connection. The reply is Done."""

    id: int
    region: int


class Claim(NamedTuple):
    """Ask for a lease of a region by its number, current or not. The reply is Opened.

    With `kept`, one reference for which the same user has sent Keep has arrived by this.
    """

    id: int
    region: int
    kept: bool = False
