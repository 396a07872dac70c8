"""How a host comes to its slice: asks all that are present, and waits for them. `claims` decides."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from shmhost.fleet.claims import Claims
from shmhost.fleet.engine import Engine
from shmhost.fleet.events import Refusal
from shmhost.fleet.members import Member, Members
from shmhost.fleet.messages import pack
from shmhost.fleet.plan import SlicedAllocator
from shmprotocol.errors import HostError, HostGone, HostTimeout

# Long enough for the token of a host that joins at the same time to come to all († 3 ms on one machine), and
# for links to hosts of the file to come up.
SETTLE_S = 0.75
ASK_S = 3.0  # for one answer
PATIENCE_S = 15.0  # for a host that is present and does not answer; a dead one's link is closed before that
TRIES = 8  # each for another slice, unless it was set by number


class Joining:
    """The way of one host to a slice; used again if it loses that."""

    def __init__(
        self, engine: Engine, members: Members, claims: Claims, allocator: SlicedAllocator, address: str
    ) -> None:
        self._engine = engine
        self._members = members
        self._claims = claims
        self._allocator = allocator
        self._address = address

    async def agree(self, preferred: int | None, learn: Callable[[], object]) -> int:
        """Return the slice that this host uses from now on. `learn` has it look at missing cards.

        HostError: all are taken, the one of the file is, or somebody does not answer.
        """
        reason = ""
        for _ in range(TRIES):
            learn()
            await asyncio.sleep(SETTLE_S)
            self._check_fit()
            taken = self._members.taken()
            number = self._claims.choose(taken, self._allocator.is_free, preferred)
            if number is None:
                raise HostError(f"no slice is free: {self._shown()}. Use more slices, on all hosts")
            self._claims.begin(number)
            reason = await self._ask_all(number, learn)
            is_free = self._allocator.is_free(number)  # still: a copy may lie there since it was chosen
            if not reason and is_free and self._claims.settle(number):
                return number
            self._claims.withdraw()
            preferred = None
            await asyncio.sleep(secrets.randbelow(1000) / 2000)
        raise HostError(f"no slice was granted: {reason or 'others came first'}. {self._shown()}")

    async def _ask_all(self, number: int, learn: Callable[[], object]) -> str:
        """Ask all that are present, and after a pause those that have come since; "" if all have granted."""
        asked: set[str] = set()
        for pause_s in (SETTLE_S, 0.0):
            while new := [member for member in self._members.present.values() if member.address not in asked]:
                reasons = await asyncio.gather(*[self._ask(member, number, learn) for member in new])
                reason = next(filter(None, reasons), "")
                if reason:
                    return reason
                asked.update(member.address for member in new)
            learn()
            await asyncio.sleep(pause_s)
        return ""

    async def _ask(self, member: Member, number: int, learn: Callable[[], object]) -> str:
        """Ask one host, until it answers or is gone; "" if it grants the slice."""
        question = pack("claim", self._address, number, self._claims.fixed is not None)
        end_s = time.monotonic() + PATIENCE_S
        while member.address in self._members.present and not member.refused:
            try:
                if member.card is None and time.monotonic() < end_s:
                    learn()
                    await asyncio.sleep(0.02)
                    continue
                await self._engine.ask(member.address, question, ASK_S)
            except Refusal as error:
                return f"{member.name!r} refuses: {error}"
            except (HostGone, HostTimeout):
                if time.monotonic() > end_s:
                    return f"{member.name!r} does not answer"
                await asyncio.sleep(0.1)
            else:
                return ""
        return ""

    def _check_fit(self) -> None:
        """Raise HostError if there are others, and this host fits with none of them."""
        refused = [member.refused for member in self._members.present.values() if member.refused]
        if refused and not self._members.ours():
            raise HostError(f"this host does not fit into the fleet: {refused[0]}")

    def _shown(self) -> str:
        taken = sorted(self._members.taken().items())
        return (
            "; ".join(f"{member.name!r} has slice {number}" for number, member in taken) or "no host has one"
        )
