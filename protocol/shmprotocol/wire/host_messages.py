"""The messages about a host as a whole: what it has, and who takes its place; see `messages`."""

from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.items import Account, Inspection, Tally, Timing, Total, Use


class Inspect(NamedTuple):
    """Ask for regions in any state, with their leases, after region `after`; the reply is Inspected."""

    id: int
    prefix: str
    after: int


class Inspected(NamedTuple):
    """The reply to Inspect, in the order of the regions' numbers; `more` as in Listed."""

    id: int
    regions: tuple[Inspection, ...]
    more: bool


class Measure(NamedTuple):
    """Ask for the counters of the host; the reply is Measured."""

    id: int


class Measured(NamedTuple):
    """The reply to Measure. Sizes are bytes; `started_ns` is CLOCK_REALTIME; counters never decrease.

    `restarts` is the number of earlier starts at this socket, `listeners` the clients that wait or
    watch, `dropped` those that broke the protocol or did not read. At most 4096 accounts, those with the
    most bytes. `arenas` are those of the regions, `ledgers` the clients that have opened any. At most 512
    uses, of the users with the most bytes. `expected` are the names of a killed host that no client
    has handed back yet, and the bytes of their objects.
    """

    id: int
    started_ns: int
    restarts: int
    budget: int
    used: int
    clients: int
    listeners: int
    connections: int
    dropped: int
    totals: tuple[Total, ...]
    accounts: tuple[Account, ...]
    timings: tuple[Timing, ...]
    refusals: tuple[Tally, ...]
    arenas: int = 0
    ledgers: int = 0
    uses: tuple[Use, ...] = ()
    expected: int = 0
    expected_bytes: int = 0


class Takeover(NamedTuple):
    """Ask the host for all that it has, as its successor. The reply is Done, or a refusal. Since version 4.

    `state` is the number of the form in which the two hosts say it: nothing but this number is fixed by the
    protocol. `package` is the version of the successor's package, `windows` its windows. The connection is
    the two hosts' own after Done.
    """

    id: int
    state: int
    package: str
    windows: tuple[tuple[int, int], ...]


class FindBoard(NamedTuple):
    """Ask for the board of the process that serves by now. The reply is BoardFound. Since version 4."""

    id: int


class BoardFound(NamedTuple):
    """The reply to FindBoard, with the read-only descriptor; `board` is as in Welcome.

    The lines have the numbers that they had on the board before.
    """

    id: int
    board: tuple[int, int]
