"""How fast this host sends and receives chunks: for all others together, and for each of them. Pure.

A bucket lends: a chunk goes at once while there is no debt, and those after it pay that off. So chunks larger
than what a slow limit allows in a second still go, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

BURST_S = 0.1  # of the rate, saved up by a pause
MAX_PEERS = 4096  # more are made up by somebody


@dataclass(slots=True)
class Bucket:
    """So many bytes a second, by the clock of who asks."""

    rate: int
    _saved: float = 0.0  # bytes; less than 0: a debt
    _then_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """Return how long the next chunk has to wait."""
        self._saved = min(self._saved + (now_s - self._then_s) * self.rate, self.rate * BURST_S)
        self._then_s = now_s
        return max(0.0, -self._saved / self.rate)

    def take(self, size: int) -> None:
        """Send so many bytes, now or as soon as `wait_s` has said."""
        self._saved -= size


class Bandwidth:
    """The limits of one direction; None: there is none. `waited_s` is how long chunks have waited in all."""

    def __init__(self, total: int | None, each: int | None) -> None:
        self._total = Bucket(total) if total is not None else None
        self._each = each
        self._peers: dict[str, Bucket] = {}  # by address
        self.waited_s: float = 0.0

    def take(self, peer: str, size: int, now_s: float, longest_s: float) -> float:
        """Return how long a chunk has to wait before it goes to or from a peer, and count it as sent.

        Over `longest_s`, it is not counted: it must not go.
        """
        buckets = [] if self._total is None else [self._total]
        if self._each is not None:
            if len(self._peers) >= MAX_PEERS:
                self._peers.clear()
            buckets.append(self._peers.setdefault(peer, Bucket(self._each)))
        wait_s = max((bucket.wait_s(now_s) for bucket in buckets), default=0.0)
        if wait_s <= longest_s:
            for bucket in buckets:
                bucket.take(size)
            self.waited_s += wait_s
        return wait_s

    def forget(self, peer: str) -> None:
        """A host is gone."""
        self._peers.pop(peer, None)
