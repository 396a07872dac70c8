"""The settings of a host, and their defaults read off the machine. Opens no socket."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from shmhost.logs import FORMATS
from shmhost.window import STEP
from shmprotocol.errors import InvalidArgument
from shmprotocol.paths import socket_path

GIB = 1024**3
# Free in C, Python with numpy, ASan, MSan, Go, JVM and Node (the first under TSan too); see DESIGN 4.
WINDOWS = ((0x550000000000, 256 * GIB), (0x510000000000, 4096 * GIB))
ADDRESS_MAX = 2**47  # user space of x86-64 with four-level page tables
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": GIB, "T": 1024 * GIB}


@dataclass(frozen=True, slots=True)
class Config:
    """How a host runs. `budget` is bytes; a window is (base, size)."""

    socket_path: str = field(default_factory=lambda: socket_path(None, os.environ))
    socket_mode: int = 0o660
    windows: tuple[tuple[int, int], ...] = WINDOWS
    budget: int = field(default_factory=lambda: default_budget())
    log_format: str = "text"

    def __post_init__(self) -> None:
        if not 0 <= self.socket_mode <= 0o777:
            raise InvalidArgument(f"a socket mode is 0 to 777 (octal), not {self.socket_mode:o}")
        if self.budget < 1:
            raise InvalidArgument(f"a budget is at least 1 byte, not {self.budget}")
        if self.log_format not in FORMATS:
            raise InvalidArgument(f"a log format is one of {', '.join(FORMATS)}, not {self.log_format!r:.40}")
        _check_windows(self.windows)


def parse_size(text: str) -> int:
    """Return the bytes of `123`, `64K`, `1.5G`, ...; InvalidArgument when it is none of these."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise InvalidArgument(f"a size is a number of bytes, with K, M, G or T behind it, not {text!r:.40}")
    return (
        int(float(match[1]) * _UNITS[match[2].upper()])
        if "." in match[1]
        else int(match[1]) * (_UNITS[match[2].upper()])
    )


def parse_window(text: str) -> tuple[int, int]:
    """Return (base, size) of `0x550000000000:256G`; InvalidArgument when it is not of that form."""
    base, colon, size = text.partition(":")
    try:
        number = int(base, 16)
    except ValueError:
        colon = ""
        number = 0
    if not colon:
        raise InvalidArgument(f"a window is BASE:SIZE, as 0x550000000000:256G, not {text!r:.60}")
    return number, parse_size(size)


def default_budget() -> int:
    """Return 80% of the memory that the machine or this process's cgroup has, in bytes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([memory, *_cgroup_limits()]) * 4 // 5


def _cgroup_limits() -> list[int]:
    """The limits of this process's cgroup and those above it, version 2 and version 1 (cgroups(7))."""
    limits = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        limits += [_read_limit(above / name) for above in (folder, *folder.parents) if above >= root]
    return [limit for limit in limits if limit is not None]


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit


def _check_windows(windows: tuple[tuple[int, int], ...]) -> None:
    if not windows:
        raise InvalidArgument("a host needs at least one window")
    end = 0
    for base, size in sorted(windows):
        if base % STEP or size % STEP or size < STEP or base < STEP:
            raise InvalidArgument(f"window {base:#x}, {size} bytes: both are multiples of {STEP}, over 0")
        if base + size > ADDRESS_MAX:
            raise InvalidArgument(f"window {base:#x}, {size} bytes, ends above {ADDRESS_MAX:#x}")
        if base < end:
            raise InvalidArgument(f"window {base:#x} overlaps the one before it, which ends at {end:#x}")
        end = base + size
