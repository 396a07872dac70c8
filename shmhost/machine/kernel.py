"""Small files of /proc and /sys, read as what they are: untrusted text of bounded size."""

from __future__ import annotations

import re
from pathlib import Path

MAX_FILE = 64 * 1024  # bytes; most of them have far fewer


def read_text(path: Path, size: int = MAX_FILE) -> str:
    """Return the first `size` bytes of a file as text, whatever they are. OSError."""
    with open(path, "rb") as file:
        return file.read(size).decode(errors="replace")


def to_number(text: str, path: Path) -> int:
    """Return a number that a file has; ValueError names the file where it is none."""
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII):
        raise ValueError(f"{path} says {text!r:.40}, which is no number")
    return int(text)
