"""Files of /proc and /sys, read as untrusted text of bounded size.

Among them the memory limits of cgroups(7), versions 1 and 2.
"""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

from shmprotocol.kernel.constants import KIB

MAX_FILE = 64 * KIB  # most of them have far fewer
_UNLIMITED = 2**62  # version 1 has no "max": it says 2**63 less a page


def read_text(path: Path, size: int = MAX_FILE) -> str:
    """Return the first `size` bytes of a file as text, in any encoding. OSError."""
    with open(path, "rb") as file:
        return file.read(size).decode(errors="replace")


def to_number(text: str, path: Path) -> int:
    """Return the number in a file; ValueError, which names the file, if it is not a number."""
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII):
        raise ValueError(f"{path} says {text!r:.40}, which is not a number")
    return int(text)


def memory_limits(root: Path = Path("/")) -> list[tuple[int, str]]:
    """Return (bytes, file) for each memory limit of this process's cgroup and those above it.

    The files are read below `root`. OSError: there is no /proc. ValueError: a file has no number in it.
    """
    limits: list[tuple[int, str]] = []
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if line.startswith("0::"):
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        folder = base.joinpath(*(part for part in path.split("/") if part not in ("", ".", "..")))
        limits += _limits_above(folder, base, name)
    return limits


def _limits_above(folder: Path, base: Path, name: str) -> list[tuple[int, str]]:
    limits = []
    for above in chain([folder], folder.parents):  # never all at once: a line can be all slashes
        if above.is_relative_to(base):
            try:
                text = read_text(above / name).strip()
            except (FileNotFoundError, NotADirectoryError):
                continue  # the root has none, nor has version 1's folder under version 2
            limit = _UNLIMITED if text == "max" else to_number(text, above / name)
            limits += [(limit, str(above / name))] if limit < _UNLIMITED else []
    return limits
