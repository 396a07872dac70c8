"""A policy: who may create what under which names, and how much of each resource they may have. Pure.

Of the rules for names the first that matches decides, and a name that none matches is refused. Of the limits,
the first that matches and speaks of a resource decides for that. A rule that names nobody is for all but the
privileged. An arena has all names below it, so its owner must be allowed to create each of those, too.
`settings.policies` reads policies from files.
"""

from __future__ import annotations

from collections.abc import Mapping

from shmhost.core.peers import Peer
from shmprotocol.errors import AccessDenied, QuotaExceeded, ShmError
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m

Limits = Mapping[str, tuple[int, str]]  # by the names of pools, with the words for the rule
NO_LIMITS: Limits = {}


class People(NamedTuple):
    """The users that a rule is for, by their numbers or one of their groups; with neither, everybody."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def have(self, uid: int, gids: frozenset[int], privileged: frozenset[int]) -> bool:
        """Whether a user is one of them."""
        if not self.uids and not self.gids:
            return uid not in privileged
        return uid in self.uids or not self.gids.isdisjoint(gids)


class NameRule(NamedTuple):
    """A rule for the names that begin with one of its prefixes. `words` are for people.

    With `allow`, regions and arenas of its kinds, seals and backends, up to `size` bytes, may be created,
    with `at_address` also at an address that the creator asks for.
    """

    words: str
    people: People
    prefixes: tuple[str, ...]
    allow: bool
    kinds: tuple[str, ...]
    seals: tuple[str, ...]
    backends: tuple[str, ...]
    size: int
    at_address: bool = True

    def refusal(self, what: str, wish: Wish) -> ShmError | None:
        """Return why a wish that this rule decides is refused; None if it is not."""
        if not self.allow:
            return AccessDenied(f"{what}: {self.words} forbids it")
        for noun, word, words in (
            ("kind", wish.kind, self.kinds),
            ("seal", wish.seal, self.seals),
            ("backend", wish.backend, self.backends),
        ):
            if word not in words:
                return AccessDenied(
                    f"{what} with the {noun} {word}: {self.words} allows {', '.join(words)} there"
                )
        if wish.at_address and not self.at_address:
            return AccessDenied(f"{what} at an address of its choice: {self.words} forbids that")
        if wish.size > self.size:
            return QuotaExceeded(
                f"{what}: {wish.size} bytes are over the {self.size} that {self.words} allows"
            )
        return None


class LimitRule(NamedTuple):
    """Limits for each of some users, by the names of pools. `words` are for people."""

    words: str
    people: People
    limits: Mapping[str, int]


class Wish(NamedTuple):
    """A region or an arena that somebody would create; the size is that of its payload, or of its span."""

    name: str
    kind: str
    seal: str
    backend: str
    size: int
    at_address: bool = False


class Policy:
    """The rules of a host. `has_names`: some are for names, so that each creation is to be checked."""

    def __init__(
        self,
        names: tuple[NameRule, ...] = (),
        limits: tuple[LimitRule, ...] = (),
        privileged: frozenset[int] = frozenset(),
    ) -> None:
        self.has_names: bool = bool(names)
        self.names = names
        self.limits = limits
        self._privileged = privileged

    def check(self, request: m.Create | m.Arena, peer: Peer) -> None:
        """Raise AccessDenied or QuotaExceeded if a client may not create what it asks for."""
        if not self.has_names:
            return
        if isinstance(request, m.Arena):
            size = max(request.size, request.max_size)
            wish = Wish(request.name, "arena", "writer", "memfd", size)
        else:
            at = request.address != 0
            size = max(request.size, request.max_size)
            wish = Wish(request.name, "region", request.seal, request.backend, size, at)
        refusal = self.refusal(wish, peer)
        if refusal is not None:
            raise refusal

    def refusal(self, wish: Wish, peer: Peer) -> ShmError | None:
        """Return why a wish of a client is refused; None if it is not."""
        what = f"uid {peer.uid} may not create {wish.name!r}"
        refusal = self._refusal(what, wish, peer)
        if refusal is None and wish.kind == "arena":
            for name in self._prefixes_below(wish.name):
                what = (
                    f"uid {peer.uid} may not create the arena {wish.name!r}, which has all names below it, "
                    f"{name!r} among them"
                )
                refusal = refusal or self._refusal(what, wish._replace(name=name), peer)
        return refusal

    def _refusal(self, what: str, wish: Wish, peer: Peer) -> ShmError | None:
        uid, gids = peer.uid, peer.groups | {peer.gid}
        for rule in self.names:
            if wish.name.startswith(rule.prefixes) and rule.people.have(uid, gids, self._privileged):
                return rule.refusal(what, wish)
        if uid in self._privileged or not self.has_names:
            return None
        return AccessDenied(f"{what}: no rule of the policy allows it")

    def _prefixes_below(self, name: str) -> list[str]:
        """Return where the names below an arena may meet another rule than the arena itself."""
        start = f"{name}/"
        return [prefix for rule in self.names for prefix in rule.prefixes if prefix.startswith(start)]

    def refuses_put(self, name: str, size: int, peer: Peer) -> bool:
        """Whether a client may not put a value of a size."""
        return self.refusal(Wish(name, "region", "full", "memfd", size), peer) is not None

    def limits_of(self, uid: int, gids: frozenset[int]) -> Limits:
        """Return the limits of a user."""
        limits: dict[str, tuple[int, str]] = {}
        for rule in self.limits:
            if rule.people.have(uid, gids, self._privileged):
                for name, limit in rule.limits.items():
                    limits.setdefault(name, (limit, rule.words))
        return limits
