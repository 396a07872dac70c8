"""The names of hosts: by address, as the keys of those that are there have them; and by identity. Pure.

A member may show any number of them. So hosts over a bound are not seen before others go. With an access
list a key has the name in a certificate, and each name has a bound of its own: nobody takes all places. Hosts
that are known by their news alone, as their coming was missed, give way: first the one heard of first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from shmhost.fleet.messages import is_address

MAX_HOSTS = 4096  # at a time; each has a card, a link, and some kilobytes of memory
MAX_OF_NAME = 64  # with an access list: a host, and processes of it that have ended unseen


class Identities:
    """The identities that hosts have shown, each with the name that it came with; the latest ones of them.

    With an access list these are the latest ones of each name: a host makes another's forgotten by none that
    it makes up.
    """

    def __init__(self, *, is_by_name: bool) -> None:
        self._is_by_name = is_by_name
        self._names: dict[str, str] = {}
        self._latest: dict[str, dict[str, None]] = {}  # identities by name, the one shown first comes first

    def note(self, host: str, name: str) -> str:
        """A host shows an identity and its own name: return the name that the identity came with."""
        first = self._names.setdefault(host, name)
        latest = self._latest.setdefault(first if self._is_by_name else "", {})
        latest.pop(host, None)
        latest[host] = None
        if len(latest) > (MAX_OF_NAME if self._is_by_name else MAX_HOSTS):
            oldest = next(iter(latest))
            del latest[oldest], self._names[oldest]
        return first

    def name_of(self, host: str) -> str:
        """Return the name of an identity, "" if it is not known."""
        return self._names.get(host, "")


class Names:
    """The hosts that are there, not for several threads at once.

    `give_way` gets the address of each that has to.
    """

    def __init__(self, give_way: Callable[[str], object], max_of_name: int = MAX_HOSTS) -> None:
        self.left_out: int = 0  # that came, and found no place
        self._give_way = give_way
        self._max_of_name = max_of_name
        self._present: dict[str, str] = {}
        self._heard: dict[str, str] = {}  # by their news alone, the one heard of first comes first
        self._count: Counter[str] = Counter()  # of both, by name

    def of(self, address: str) -> str:
        """Return the name of a host; "" if it is not there."""
        return self._present.get(address) or self._heard.get(address, "")

    def appear(self, address: str, name: str) -> bool:
        """A host has come; False: there is no place, or another one has its address."""
        if not self._place(address, name):
            return False
        self._present[address] = name
        self._heard.pop(address, None)
        return True

    def hear(self, address: str, name: str) -> bool:
        """News have come with an address and a name; False: there is no place, or another one has it."""
        is_new = not self.of(address)
        if not self._place(address, name):
            return False
        if is_new:
            self._heard[address] = name
        return True

    def leave(self, address: str, name: str) -> bool:
        """A host has gone; False: it was not there."""
        if self.of(address) != name:
            return False
        self._remove(address)
        return True

    def _place(self, address: str, name: str) -> bool:
        """Whether a host has a place, or gets one now."""
        if owner := self.of(address):
            return owner == name
        if not is_address(address):
            return False
        if self._count[name] >= self._max_of_name:
            first = next((each for each, its in self._heard.items() if its == name), None)
        elif len(self._present) + len(self._heard) >= MAX_HOSTS:
            first = next(iter(self._heard), None)
        else:
            self._count[name] += 1
            return True
        if first is None:
            self.left_out += 1
            return False
        self._remove(first)
        self._give_way(first)
        self._count[name] += 1
        return True

    def _remove(self, address: str) -> None:
        name = self._present.pop(address, None) or self._heard.pop(address)
        self._count[name] -= 1
        if not self._count[name]:
            del self._count[name]
