"""The settings of a host, and their defaults read off the machine. Opens no socket."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from shmhost.core.stored import MAX_STORED
from shmhost.core.window import STEP
from shmhost.machine.kernel import memory_limits
from shmhost.machine.logs import FORMATS, LEVELS
from shmprotocol.cli import parse_size
from shmprotocol.errors import InvalidArgument
from shmprotocol.kernel.constants import GIB, MIB
from shmprotocol.wire.paths import socket_path
from shmprotocol.wire.records import shown

# Free in C, Python with numpy, ASan, MSan, Go, JVM and Node (the first under TSan too); see DESIGN 4.
WINDOWS = ((0x550000000000, 256 * GIB), (0x510000000000, 4096 * GIB))
MAX_ADDRESS = 2**47  # user space of x86-64 with four-level page tables
# For a host without regions, † 28 MiB (2026-11), and for its clients' requests and replies.
OWN_MEMORY = 36 * MIB
MAX_BOARD = 2**24  # names, of 64 bytes: a GiB


@dataclass(frozen=True, slots=True)
class Config:
    """How a host runs. `budget`, `spares` and `reserve` are bytes; a window is (base, size).

    `board` is the number of names for which clients see without a request whether what they have is current.
    `metrics` is as for metrics_address.
    """

    socket_path: str = field(default_factory=lambda: socket_path(None, os.environ))
    socket_mode: int = 0o660
    windows: tuple[tuple[int, int], ...] = WINDOWS
    budget: int = field(default_factory=lambda: default_budget())
    log_format: str = "text"
    log_level: str = "info"
    metrics: str = ""
    board: int = 65_535
    spares: int = 4 * MIB  # of a connection; clients do not ask for more without a reserve
    reserve: int = 256 * MIB  # of all connections of a uid
    store: int | None = None  # regions that a service manager keeps; None: as many as it says
    until_idle: float = 0  # seconds without a connection after which it stops; 0: it never does
    policy: str = ""  # the path of a file, see `policies`; "": none
    fleet: str = ""  # likewise, see `fleet.config`

    def __post_init__(self) -> None:
        check_mode(self.socket_mode)
        check_budget(self.budget)
        check_idle(self.until_idle)
        check_spares(self.spares)
        check_spares(self.reserve)
        check_choice("log format", FORMATS, self.log_format)
        check_choice("log level", LEVELS, self.log_level)
        check_metrics(self.metrics)
        check_board(self.board)
        if self.store is not None:
            check_store(self.store)
        check_windows(self.windows)
        if self.metrics and os.path.abspath(self.metrics) == os.path.abspath(self.socket_path):
            raise InvalidArgument(f"metrics cannot be served at {self.metrics}: it is the host's own socket")


def check_mode(mode: int) -> int:
    """Return the mode of a socket, or raise InvalidArgument."""
    if not 0 <= mode <= 0o777:
        raise InvalidArgument(f"a socket mode is 0 to 777 (octal), not {mode:o}")
    return mode


def check_budget(budget: int) -> int:
    """Return a budget in bytes, or raise InvalidArgument."""
    if not 1 <= budget < 2**63:
        raise InvalidArgument(f"a budget is at least 1 byte and less than 2**63, not {shown(budget)}")
    return budget


def check_board(names: int) -> int:
    """Return a number of names for the board, or raise InvalidArgument."""
    if not 0 <= names <= MAX_BOARD:
        raise InvalidArgument(f"a board has room for 0 to {MAX_BOARD} names, not {shown(names)}")
    return names


def check_store(regions: int) -> int:
    """Return a number of regions for the service manager's store, or raise InvalidArgument."""
    if not 0 <= regions <= MAX_STORED:
        raise InvalidArgument(f"a service manager keeps 0 to {MAX_STORED} regions, not {shown(regions)}")
    return regions


def check_idle(seconds: float) -> float:
    """Return a number of seconds without connections, or raise InvalidArgument."""
    if not 0 <= seconds < 1e9:
        raise InvalidArgument(f"a host can be idle for 0 to 1e9 seconds, not {shown(seconds)}")
    return seconds


def check_spares(size: int) -> int:
    """Return a limit of spares in bytes, or raise InvalidArgument."""
    if not 0 <= size < 2**63:
        raise InvalidArgument(f"a limit of spares is 0 bytes or more and less than 2**63, not {shown(size)}")
    return size


def check_choice(what: str, choices: Sequence[str], text: str) -> str:
    """Return a text that is one of some, or raise InvalidArgument."""
    if text not in choices:
        raise InvalidArgument(f"a {what} is one of {', '.join(choices)}, not {text!r:.40}")
    return text


def parse_window(text: str) -> tuple[int, int]:
    """Return (base, size) of `0x550000000000:256G`; InvalidArgument when it is not of that form."""
    base, colon, size = text.partition(":")
    try:
        number = int(base, 16)
    except ValueError:
        colon = ""
        number = 0
    if not colon:
        raise InvalidArgument(f"a window is BASE:SIZE such as 0x550000000000:256G, not {text!r:.60}")
    return number, parse_size(size)


def metrics_address(text: str) -> str | tuple[str, int] | None:
    """Return what `9464`, `127.0.0.1:9464`, `[::1]:9464` or `/path/to/socket` names; None for nothing.

    InvalidArgument when it is none of these, or an address that other machines reach.
    """
    if not text:
        return None
    if text.startswith("/"):
        return socket_path(text, {})
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback and 0 < int(port) < 65536:
            return host, int(port)
    except ValueError:
        pass
    raise InvalidArgument(
        f"metrics are served at a port of this machine, such as 127.0.0.1:9464 or [::1]:9464, or at the path "
        f"of a socket, not at {text!r:.60}"
    )


def check_metrics(text: str) -> str:
    """Return the text, or raise InvalidArgument as metrics_address does."""
    metrics_address(text)
    return text


def default_budget() -> int:
    """Return 80% of the bytes that the machine or this process's cgroup has beside the host's own."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limits = [limit for limit, _ in memory_limits()]
    except (OSError, ValueError):
        limits = []  # no /proc, or none that can be read: `shmhost doctor` says so
    total = min([memory, *limits])
    return max(total - OWN_MEMORY, total // 4) * 4 // 5


def check_window(base: int, size: int) -> tuple[int, int]:
    """Return a window that can be handed out of, or raise InvalidArgument."""
    if base % STEP or size % STEP or size < STEP or base < STEP:
        raise InvalidArgument(f"window {base:#x}, {size} bytes: both are multiples of {STEP}, over 0")
    if base + size > MAX_ADDRESS:
        raise InvalidArgument(f"window {base:#x}, {size} bytes, ends above {MAX_ADDRESS:#x}")
    return base, size


def check_windows(windows: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Return windows that can be handed out of, or raise InvalidArgument."""
    if not windows:
        raise InvalidArgument("a host needs at least one window")
    end = 0
    for base, size in sorted(windows):
        check_window(base, size)
        if base < end:
            raise InvalidArgument(f"window {base:#x} overlaps the one before it, which ends at {end:#x}")
        end = base + size
    return windows
