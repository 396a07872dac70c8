"""Which waits and watches a name is for, found without a look at each of them. Pure.

A client may have a thousand of them, and every change of every name asks all clients.
"""

from __future__ import annotations

from bisect import bisect_left, insort


class PrefixIndex:
    """Numbers by prefixes. A name's are found by one look for each length that prefixes have."""

    __slots__ = ("_lengths", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[str, dict[int, None]] = {}
        self._lengths: dict[int, int] = {}  # how many prefixes have each length

    def add(self, prefix: str, number: int) -> None:
        """Add a number, which the prefix does not have yet."""
        numbers = self._numbers.get(prefix)
        if numbers is None:
            numbers = self._numbers[prefix] = {}
            self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        numbers[number] = None

    def remove(self, prefix: str, number: int) -> None:
        """Remove a number, which the prefix has."""
        numbers = self._numbers[prefix]
        del numbers[number]
        if not numbers:
            del self._numbers[prefix]
            self._lengths[len(prefix)] -= 1
            if not self._lengths[len(prefix)]:
                del self._lengths[len(prefix)]

    def of(self, name: str) -> list[int]:
        """Return the numbers of all prefixes of a name."""
        return [
            number
            for length in self._lengths
            if length <= len(name)
            for number in self._numbers.get(name[:length], ())
        ]


class NameIndex:
    """Numbers by names."""

    __slots__ = ("_names", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[str, dict[int, None]] = {}
        self._names: list[str] = []  # sorted

    def add(self, name: str, number: int) -> None:
        """Add a number; no effect if the name has it."""
        if name not in self._numbers:
            self._numbers[name] = {}
            insort(self._names, name)
        self._numbers[name][number] = None

    def remove(self, name: str, number: int) -> None:
        """Remove a number; no effect if the name does not have it."""
        numbers = self._numbers.get(name, {})
        numbers.pop(number, None)
        if name in self._numbers and not numbers:
            del self._numbers[name]
            del self._names[bisect_left(self._names, name)]

    def of(self, name: str) -> list[int]:
        """Return the numbers of a name."""
        return list(self._numbers.get(name, ()))

    def of_all_below(self, name: str) -> list[int]:
        """Return the numbers of a name and of the names below it, each once."""
        numbers = dict(self._numbers.get(name, {}))
        start, end = (bisect_left(self._names, name + after) for after in ("/", "0"))  # "0" follows "/"
        for below in self._names[start:end]:
            numbers.update(self._numbers[below])
        return list(numbers)
