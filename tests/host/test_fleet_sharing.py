"""Who may have a chunk of a region that is announced before it is hashed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fleet_parts import sharing_parts
from shmhost.fleet.announcements import Announcement
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.events import Refusal
from shmhost.fleet.exports import Export
from shmhost.fleet.sharing import Sharing
from shmhost.fleet.turns import TURNS_FROM

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

EARLY, TREE = b"e" * 32, b"t" * 32
FIELDS = "models/x", 1, 1 << 40, TURNS_FROM, 1, TURNS_FROM, 0, 0, 0, 0, 1, 0o644, "root"


def sharing_of(export: Export) -> Sharing:
    """Return the part of a host that announces one region."""
    sharing = Sharing(sharing_parts(FleetConfig("fleet.toml", "test", "a"), None))
    sharing.exports.entries["models/x"] = export
    return sharing


def test_two_hosts_have_their_turn_by_whichever_announcement_they_ask() -> None:
    region: Any = SimpleNamespace(room=TURNS_FROM, object=SimpleNamespace())
    early = Export(Announcement(*FIELDS, EARLY, True), [], region, 1, EARLY)
    answers = []

    async def run() -> None:
        sharing = sharing_of(early)

        def ask(who: str, tree: bytes) -> None:
            try:
                sharing.chunk_of(who, (who * 32, "models/x", tree, 0))
            except Refusal:
                answers.append(f"{who} waits")
            else:
                answers.append(who)

        for who in "bcd":
            ask(who, EARLY)
        announcement = early.announcement._replace(tree=TREE, is_early=False)
        sharing.exports.entries["models/x"] = early._replace(announcement=announcement)
        sharing.exports.renamed(EARLY, TREE)
        for who, tree in (("d", EARLY), ("d", TREE), ("b", EARLY), ("c", TREE)):
            ask(who, tree)
        await sharing.close()

    asyncio.run(run())
    assert answers == ["b", "c", "d waits", "d waits", "d waits", "b", "c"]
