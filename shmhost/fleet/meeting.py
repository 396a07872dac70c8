"""How two hosts that do not see each other meet, when others see both. Waits.

zenoh connects again only to the endpoints of the file: a link that came about by what one peer said about
another stays broken († 1.10.2). So a host asks one of the others, now and then, whom it sees. If that is
somebody who is missing here, a peer that is there for a moment introduces the two.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import anyio.to_thread

from shmhost.fleet.engine import Engine
from shmhost.fleet.events import Refusal
from shmhost.fleet.members import Members
from shmhost.fleet.messages import ID_DIGITS, identities_of, pack, unpack
from shmprotocol.errors import HostGone, HostTimeout, RemoteProtocolError

# Between questions; doubled as long as the same hosts are missing, as behind a firewall that stays.
FIRST_S, LAST_S = 4.0, 64.0
ASK_S = 3.0


class Meeting:
    """Looks for hosts that others see, and this one does not."""

    def __init__(self, engine: Engine, members: Members, address: str) -> None:
        self._engine = engine
        self._members = members
        self._address = address
        self._pause_s = FIRST_S
        self._missing: set[str] = set()

    def answer(self, _values: tuple[Any, ...]) -> bytes:
        """Answer whom this host sees, by their identities."""
        return pack(*sorted(member.host for member in self._members.ours()))

    async def run(self) -> None:
        """Ask, until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            missing = await self._ask()
            if missing and missing == self._missing:
                self._pause_s = min(self._pause_s * 2, LAST_S)
            elif missing or not self._missing:
                self._pause_s = FIRST_S
            self._missing = missing
            if missing:
                await anyio.to_thread.run_sync(self._engine.introduce)

    async def _ask(self) -> set[str]:
        """Return the identities that one of the others sees, and this host does not."""
        others = self._members.ours()
        if not others:
            return set()
        try:
            answer = await self._engine.ask(random.choice(others).address, pack("sees", self._address), ASK_S)
            seen = identities_of(unpack(answer))
        except (
            Refusal,
            HostGone,
            HostTimeout,
            RemoteProtocolError,
        ):  # it does not know the question, or is gone
            return set()
        present = {address[:ID_DIGITS] for address in self._members.present}
        return set(seen) - present - {self._address[:ID_DIGITS]}
