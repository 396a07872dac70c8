"""The addresses of the boards of earlier hosts, as long as clients of those may have one mapped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shmhost.core.window import Allocator, Span
from shmhost.serving.link import Link

BoardRecord = tuple[int, int, tuple[int, ...]]  # the span, and the indices of links


class OldBoards:
    """Spans of boards, each with the links that came before the next one."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._links: dict[Span, set[Link]] = {}

    def add(self, span: Span, links: Iterable[Link]) -> None:
        """Keep a span, which is taken, until these links are gone."""
        self._links[span] = set(links)
        self._give_back()

    def forget(self, link: Link) -> None:
        """Take note that a link is gone."""
        for links in self._links.values():
            links.discard(link)
        self._give_back()

    def record(self, links: Sequence[Link]) -> tuple[BoardRecord, ...]:
        """Return the spans, with the indices of their links among these."""
        index = {link: number for number, link in enumerate(links)}
        return tuple(
            (*span, tuple(index[link] for link in some if link in index))
            for span, some in self._links.items()
        )

    def _give_back(self) -> None:
        for span in [span for span, links in self._links.items() if not links]:
            del self._links[span]
            self._allocator.give(span)
