"""The other hosts of a fleet, as far as this one knows: their cards, and whether they fit. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from shmhost.fleet.claims import Rank
from shmhost.fleet.messages import ID_DIGITS, Card, difference
from shmhost.fleet.names import MAX_HOSTS

# The engine says who comes and goes. Should it miss something, as when more events came than were taken, then
# a host whose news go on to come is there, and one whose news have not come for long is not.
CERTAIN_S = 2.0  # of news from a host that is not there: what was under way when it went has come by then
RECENT_S = 10.0  # news before that prove nothing
SILENT_S = 30.0  # of a host that says something each second; a link without a sign of life is closed after 5
MAX_STRANGERS = 4096
MAX_PRESENT = 2 * MAX_HOSTS  # the engine says who finds a place, but its word of who has gone may be dropped


@dataclass(eq=False, slots=True)
class Member:
    """A host that is present. `card` is None until it has answered; `refused` is why it is not one of us."""

    address: str
    card: Card | None = None
    refused: str = ""
    heard_s: float = 0.0  # when it was last heard of, by the clock of this host

    @property
    def name(self) -> str:
        """Its name, or its address as long as that is all there is."""
        return self.card.name if self.card is not None else self.address

    @property
    def host(self) -> str:
        """Its identity, which a restart does not change."""
        return self.address[:ID_DIGITS]

    @property
    def is_one_of_us(self) -> bool:
        """Whether it has shown that it fits."""
        return self.card is not None and not self.refused


@dataclass(slots=True)
class Members:
    """The hosts that are present, by address."""

    present: dict[str, Member] = field(default_factory=dict)
    _strangers: dict[str, float] = field(default_factory=dict)  # not present, and since when they are heard

    def appear(self, address: str) -> bool:
        """Note that a host is there; False: there is no place for it."""
        if address not in self.present and len(self.present) >= MAX_PRESENT:
            return False
        self.present.setdefault(address, Member(address))
        return True

    def hear(self, address: str, now_s: float) -> bool:
        """News have come from a host: return whether it is present, from now on if they go on to come."""
        if address in self.present:
            return True
        if len(self._strangers) >= MAX_STRANGERS:
            self._strangers.clear()
        since_s = self._strangers.setdefault(address, now_s)
        if now_s < since_s + CERTAIN_S:
            return False
        del self._strangers[address]
        if now_s > since_s + RECENT_S:
            self._strangers[address] = now_s
            return False
        return self.appear(address)

    def silent(self, now_s: float) -> list[str]:
        """Return the hosts of which nothing has come for long."""
        others = [member for member in self.present.values() if member.card is not None]
        return [member.address for member in others if now_s > member.heard_s + SILENT_S]

    def leave(self, address: str) -> Member | None:
        """Forget a host; return what was known of it."""
        return self.present.pop(address, None)

    def take(self, own: Card, card: Card, now_s: float) -> Member:
        """Take the card of a host; its `refused` says whether it fits."""
        member = self.present.setdefault(card.address, Member(card.address))
        member.card, member.heard_s = card, now_s
        member.refused = difference(own, card)
        return member

    def ours(self) -> list[Member]:
        """Return those that fit."""
        return [member for member in self.present.values() if member.is_one_of_us]

    def pending(self) -> list[Member]:
        """Return those whose card is missing."""
        return [member for member in self.present.values() if member.card is None]

    def taken(self) -> dict[int, Member]:
        """Return the slices of others."""
        cards = [(member, member.card) for member in self.ours()]
        return {card.held: member for member, card in cards if card is not None and card.held is not None}


def rank_of(card: Card) -> Rank:
    """Return the rank of a host in a conflict over a slice."""
    return not card.fixed, card.host
