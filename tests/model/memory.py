"""What a load may return: shared memory under store buffers (x86), and under the weaker rules of C11.

Every word has one writer, as every page of an arena, a ledger and a board has. So the order in which the
values of a word follow each other is the order in which its writer stored them, and both models rest on that.

`Buffered` is x86-TSO (Sewell et al., 2010): each process has a first-in first-out buffer of stores, of which
it sees its own at once and others when they drain, at any time. A full fence waits until the buffer is empty.

`Views` is the part of C11 without cycles of loads and the stores that depend on them (RC11; Lahav et al.,
2017), as a machine (Kang et al., 2017, without its promises): memory keeps every value that somebody may yet
read, and each process has a view, the oldest value of each word that it may read. A relaxed load takes any
value from there on, so loads and stores to different words pass each other. An acquire load of a release
store takes over the view of its writer. A full fence joins a view that all full fences share. A *plain* word
is not atomic: when two processes may touch it at the same time and one of them writes, that is a data race,
and the model says so.

Seq accesses have one order in C11, which need not be that of the run. Here a seq load may pass over a seq
store until the storing process, or one that knows of the store, is seq again. That is a little less than C11
promises in some programs, and in others a little more; with fences in place of seq the model is exact.

A *message* stands for what goes through the kernel (a socket, the notice of a death, an eventfd): whoever
looks sees the last one, and all that its sender had seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from model.programs import ACQUIRE, RELEASE, SEQ, Broken


class Word(NamedTuple):
    """A word of shared memory, or a message (which has no one writer)."""

    start: Any
    writer: str = ""
    readers: frozenset[str] = frozenset()
    is_plain: bool = False  # data, not an atomic
    is_message: bool = False


class Buffered:
    """x86-TSO. A memory is (values, one buffer of (word, value) for each process)."""

    title = "store buffers (x86-TSO)"

    def __init__(self, words: dict[str, Word], processes: list[str]) -> None:
        self._names = list(words)
        self._index = {name: index for index, name in enumerate(words)}
        self.start = (tuple(word.start for word in words.values()), ((),) * len(processes))

    def load(self, memory: Any, process: int, at: str, _order: str) -> Iterator[tuple[Any, Any]]:
        """Yield each value that a load may return, with the memory after it."""
        values, buffers = memory
        index = self._index[at]
        own = [value for word, value in buffers[process] if word == index]
        yield (own[-1] if own else values[index]), memory

    def store(self, memory: Any, process: int, at: str, value: Any, _order: str) -> Any:
        values, buffers = memory
        return values, _replace(buffers, process, (*buffers[process], (self._index[at], value)))

    def drains(self, memory: Any, process: int) -> Iterator[tuple[str, Any, Any]]:
        """Yield what may leave the buffer: the word, the value, and the memory after it."""
        values, buffers = memory
        if buffers[process]:
            (index, value), *others = buffers[process]
            after = _replace(values, index, value), _replace(buffers, process, tuple(others))
            yield self._names[index], value, after

    def exchange(self, memory: Any, process: int, at: str, value: Any) -> Any | None:
        """Return the memory after a seq store, which is xchg or followed by a fence; None: it waits."""
        values, buffers = memory
        return None if buffers[process] else (_replace(values, self._index[at], value), buffers)

    def fence(self, memory: Any, process: int) -> Any | None:
        """Return the memory after a full fence, or None while it waits."""
        return None if memory[1][process] else memory

    def post(self, memory: Any, process: int, at: str, value: Any) -> Any | None:
        """Send a message. The kernel takes a lock for it, which is a full fence here."""
        return self.exchange(memory, process, at, value)

    def look(self, memory: Any, _process: int, at: str) -> tuple[Any, Any]:
        return memory[0][self._index[at]], memory

    def kill(self, memory: Any, process: int) -> Any:
        """What did not drain is lost; that all of it drains first is another way to go on."""
        return memory[0], _replace(memory[1], process, ())

    def leave(self, memory: Any, _process: int) -> Any:
        return memory

    def settle(self, memory: Any, _process: int) -> Any:
        return memory


class Views:
    """C11 without cycles. A memory is (values and views of each word, views of each process, view of fences).

    The views of a process are what it may read from now on (`current`), what it could if it made an acquire
    fence now (`gained`), and what its relaxed stores carry since its last fence (`given`). A word of its own
    counts how often a process read each plain word, so that views also tell whether its writer knows of that.
    """

    title = "C11 (relaxed to seq, fences, data races)"

    def __init__(self, words: dict[str, Word], processes: list[str]) -> None:
        self._words = words | {
            f"use of {name} by {reader}": Word(None, reader, frozenset([word.writer]))
            for name, word in words.items()
            if word.is_plain
            for reader in sorted(word.readers)
        }
        self._index = {name: index for index, name in enumerate(self._words)}
        self._processes = processes
        self._readers = [
            [p for p, process in enumerate(processes) if process in word.readers]
            for word in self._words.values()
        ]
        self._uses = {
            name: [self._index[f"use of {name} by {reader}"] for reader in word.readers]
            for name, word in words.items()
            if word.is_plain
        }
        zero = (0,) * len(self._words)
        self._zero = zero
        messages = tuple(((word.start, zero),) for word in self._words.values())
        self.start = (messages, ((zero, zero, zero, zero),) * len(processes), zero)

    def load(self, memory: Any, process: int, at: str, order: str) -> Iterator[tuple[Any, Any]]:
        """Yield each value that a load may return, with the memory after it."""
        assert self._processes[process] in self._words[at].readers, f"{at} has readers that were not declared"
        if self._words[at].is_plain:
            yield self._use(memory, process, at)
            return
        messages, threads, fences = self._tell(memory, process) if order == SEQ else memory
        index, (current, gained, given, late) = self._index[at], threads[process]
        oldest = max(current[index], fences[index]) if order == SEQ else current[index]
        for time in range(oldest, len(messages[index])):
            value, view = messages[index][time]
            seen = _replace(current, index, time)
            gained_now = _join(_join(gained, seen), view)
            current_now = _join(seen, view) if order in (ACQUIRE, SEQ) else seen
            views = (current_now, gained_now, given, late)
            yield value, self._forget(messages, _replace(threads, process, views), fences)

    def _use(self, memory: Any, process: int, at: str) -> tuple[Any, Any]:
        messages, threads, fences = memory
        index, (current, gained, given, late) = self._index[at], threads[process]
        value, _ = messages[index][-1]
        if current[index] != len(messages[index]) - 1:
            raise Broken(f"data race: {at} is read while {self._words[at].writer} may write it")
        count = self._index[f"use of {at} by {self._processes[process]}"]
        time = len(messages[count])
        views = (_replace(current, count, time), _replace(gained, count, time), given, late)
        messages = _replace(messages, count, (*messages[count], (None, self._zero)))
        return value, self._forget(messages, _replace(threads, process, views), fences)

    def store(self, memory: Any, process: int, at: str, value: Any, order: str) -> Any:
        word = self._words[at]
        assert word.writer == self._processes[process], f"{at} has another writer"
        messages, threads, fences = memory
        index, (current, gained, given, late) = self._index[at], threads[process]
        if any(current[use] != len(messages[use]) - 1 for use in self._uses.get(at, ())):
            raise Broken(f"data race: {at} is written while somebody may read it")
        time = len(messages[index])
        current, gained = _replace(current, index, time), _replace(gained, index, time)
        view = current if order == RELEASE else _replace(given, index, time)
        messages = _replace(messages, index, (*messages[index], (value, view)))
        views = (current, gained, given, late)
        return self._forget(messages, _replace(threads, process, views), fences)

    def exchange(self, memory: Any, process: int, at: str, value: Any) -> Any | None:
        """A seq store: no seq load passes over it any more once somebody who knows of it is seq again."""
        index = self._index[at]
        messages, threads, fences = self.store(self._tell(memory, process), process, at, value, RELEASE)
        current, gained, given, _ = threads[process]
        late = _replace(self._zero, index, current[index])
        return messages, _replace(threads, process, (current, gained, given, late)), fences

    def _tell(self, memory: Any, process: int) -> Any:
        """Let seq stores that a process knows of, its own too, come before all seq accesses from now on."""
        messages, threads, fences = memory
        for writer, views in enumerate(threads):
            if views is not None and any(late := views[3]):
                index = max(range(len(late)), key=late.__getitem__)
                if writer == process or threads[process][0][index] >= late[index]:
                    threads = _replace(threads, writer, (*views[:3], self._zero))
                    fences = _join(fences, late)
        return messages, threads, fences

    def drains(self, _memory: Any, _process: int) -> Iterator[tuple[str, Any, Any]]:
        """Nothing: what others see late is what they load late."""
        return iter(())

    def fence(self, memory: Any, process: int) -> Any | None:
        messages, threads, fences = self._tell(memory, process)
        view = _join(threads[process][1], fences)
        return self._forget(messages, _replace(threads, process, (view, view, view, self._zero)), view)

    def post(self, memory: Any, process: int, at: str, value: Any) -> Any | None:
        messages, threads, fences = self._tell(memory, process)
        index = self._index[at]
        view = _join(messages[index][-1][1], threads[process][0])
        return self._forget(_replace(messages, index, ((value, view),)), threads, fences)

    def look(self, memory: Any, process: int, at: str) -> tuple[Any, Any]:
        messages, threads, fences = memory
        value, view = messages[self._index[at]][-1]
        current, gained, given, late = threads[process]
        views = (_join(current, view), _join(gained, view), given, late)
        return value, self._forget(messages, _replace(threads, process, views), fences)

    def kill(self, memory: Any, _process: int) -> Any:
        return memory

    def leave(self, memory: Any, process: int) -> Any:
        """A process that ended reads nothing any more."""
        messages, threads, fences = self._tell(memory, process)
        return self._forget(messages, _replace(threads, process, None), fences)

    def settle(self, memory: Any, process: int) -> Any:
        messages, threads, fences = self._tell(memory, process)
        view = tuple(len(history) - 1 for history in messages)
        return self._forget(messages, _replace(threads, process, (view, view, view, self._zero)), fences)

    def _forget(self, messages: Any, threads: Any, fences: Any) -> Any:
        """Drop the values that nobody can read any more, so that states which go on alike are the same."""
        oldest = [0] * len(messages)
        for index, history in enumerate(messages):
            if len(history) > 1:
                reads = [threads[p][0][index] for p in self._readers[index] if threads[p] is not None]
                oldest[index] = min(reads, default=len(history) - 1)
        if not any(oldest):
            return messages, threads, fences
        past = tuple(oldest)
        return (
            tuple(
                [
                    tuple([(value, _since(view, past)) for value, view in history[first:]])
                    for history, first in zip(messages, past, strict=True)
                ]
            ),
            tuple([views and tuple([_since(view, past) for view in views]) for views in threads]),
            _since(fences, past),
        )


@lru_cache(1 << 17)
def _since(view: Any, past: Any) -> Any:
    return tuple([time - first if time > first else 0 for time, first in zip(view, past, strict=True)])


@lru_cache(1 << 17)
def _join(first: Any, second: Any) -> Any:
    return first if first == second else tuple(map(max, first, second))


def _replace(items: Any, index: int, item: Any) -> Any:
    return (*items[:index], item, *items[index + 1 :])
