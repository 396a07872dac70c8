"""Names that several hosts export, and which of these hosts others copy from. Pure.

The host with the smallest identity comes first, on all hosts, as with slices. While it is not there, its
copies stay where they are, and hosts without one copy from the next; when it is back, all copy from it again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

MAX_CONFLICTS = 1000  # that are shown; more are many mistakes of one kind


class Conflicts:
    """The exporters of names that have several, by identity, the first one first."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, ...]] = {}

    def note(self, name: str, hosts: Sequence[str]) -> bool:
        """Take the exporters of a name; True: they are several, and were not before."""
        if len(hosts) < 2:
            self.names.pop(name, None)
            return False
        is_new = name not in self.names
        if is_new and len(self.names) >= MAX_CONFLICTS:
            return False
        self.names[name] = tuple(sorted(hosts))
        return is_new


def choose(hosts: Collection[str], present: Collection[str], current: str | None) -> str | None:
    """Return the exporter to copy a name from; `current` is the one whose copy is here."""
    there = [host for host in hosts if host in present]
    first = min(there or hosts, default=None)
    if first is not None and current in hosts and current is not None and current < first:
        return current
    return first
