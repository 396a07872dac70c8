"""Text for people: no control characters, sizes and times in a fitting unit, a colour for each state."""

from __future__ import annotations

from shmprotocol.wire.names import State

STATE_COLORS: dict[str, str] = {
    State.CURRENT: "green",
    State.CREATING: "yellow",
    State.SPARE: "blue",
    State.ABORTED: "magenta",
    State.SUPERSEDED: "cyan",
    State.UNLINKED: "red",
}
_NS = 10**9


def printable(text: str) -> str:
    """Return a text without characters that move the cursor or reverse a line, such as ESC and U+202E."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def age(since_ns: int, now_ns: int) -> str:
    """Return the time since a moment in the unit that fits: `3 min`."""
    seconds = max(now_ns - since_ns, 0) // _NS
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def format_size(size: int) -> str:
    """Return a number of bytes in the unit that fits it: `4.0 KiB`."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.1f} {units[0]}" if units[0] != "B" else f"{size} B"
