"""What the tests of `doctor` share: its topics, settings, and files of a made-up tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shmhost.commands.doctor import measure as doctor
from shmhost.settings.config import GIB, Config

# Windows that no other test uses, outside of the default ones: those can still be reserved in a long run.
WINDOWS = ((0x500000000000, GIB), (0x501000000000, GIB))
MIB = 1 << 20
TOPICS = [
    "kernel",
    "memfd",
    "seals",
    "arenas",
    "held locks",
    "memfd policy",
    "peer death",
    "fixed addresses",
    "open files",
    "address space",
    "locked memory",
    "mappings",
    "memory",
    "container",
    "huge pages",
    "overcommit",
    "window",
    "window",
    "socket",
    "socket folder",
]


def settings(path: Path | str, **values: object) -> Config:
    given: dict[str, Any] = {"socket_path": str(path), "windows": WINDOWS, "budget": 64 * MIB}
    return Config(**given | values)


def find(topic: str, findings: list[doctor.Finding]) -> doctor.Finding:
    """Return the finding of a topic: the first of several."""
    return next(finding for finding in findings if finding.topic == topic)


def write(root: Path, **files: str | bytes) -> Path:
    """Write files, named with __ for /, below a folder."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
