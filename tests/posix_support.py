"""What the tests of `shmclient.posix` share: mappings, and what the kernel says of pages."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmclient import posix
from support import in_child

PAGE = posix.getpagesize()
SHM = Path("/dev/shm")
ANONYMOUS = posix.MAP_PRIVATE | posix.MAP_ANONYMOUS
CONTENT = b"".join(bytes([number]) * PAGE for number in (1, 2, 3, 4))


def refused(code: int) -> Any:
    """Expect an OSError with this code, its text, and what it is about."""
    return pytest.raises(OSError, match=rf"^\[Errno {code}\] {re.escape(os.strerror(code))}: .")


def anonymous(length: int = PAGE, address: int | None = None, prot: int = posix.PROT_RDWR) -> posix.Mapping:
    return posix.mmap(address, length, prot, ANONYMOUS)


def reserved(length: int, address: int | None = None) -> posix.Mapping:
    return posix.mmap(address, length, posix.PROT_NONE, ANONYMOUS | posix.MAP_NORESERVE)


def shared(fd: int, address: int | None = None, prot: int = posix.PROT_RDWR, **options: Any) -> posix.Mapping:
    return posix.mmap(address, PAGE, prot, posix.MAP_SHARED, fd, **options)


def permissions(address: int, pages: int = 1) -> list[str | None]:
    """Return what /proc/self/maps allows for each page, as "rw-s"; None where nothing is mapped."""
    rights: dict[int, str] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, allowed = line.split()[:2]
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        for page in range(max(low, address), min(high, address + pages * PAGE), PAGE):
            rights[page] = allowed
    return [rights.get(address + number * PAGE) for number in range(pages)]


def field(name: str, path: str = "/proc/self/status") -> int:
    """Return a number that the kernel shows, in bytes."""
    value = next(line.split() for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return int(value[1]) * 1024


def dies_of(code: signal.Signals, function: Callable[[], object]) -> bool:
    """Whether a child that runs the function is ended by a signal."""

    def run() -> None:
        faulthandler.disable()  # or it writes of a death that is meant
        function()

    return in_child(run) == -code


CALLS: dict[str, Callable[[Any], object]] = {
    "mprotect": lambda target: posix.mprotect(target, posix.PROT_READ),
    "msync": lambda target: posix.msync(target),
    "madvise": lambda target: posix.madvise(target, posix.MADV_NORMAL),
}


CREATE = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL
