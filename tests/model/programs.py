"""A process as the explorer sees it: what it does to memory next, and where it stands after each answer.

A process is written as a generator, which yields one operation at a time and is sent the answer. Its state is
where it stands and its local variables. So the states of a process are numbered as they come up, each with
one history of answers that leads to it. To make a step from a state, the history is played once more into a
fresh generator, and the result is remembered.

Two things are hidden from this view, and a program must not have them: a value that waits for a `yield` in
the same expression, such as `a + (yield b)`, and a `for` over items of which two are equal. `Program.check`
finds most of that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

RELAXED, ACQUIRE, RELEASE, SEQ = "relaxed", "acquire", "release", "seq"


class Load(NamedTuple):
    """Answered by the value of a word."""

    at: str
    order: str = RELAXED


class Store(NamedTuple):
    """A store to a word, which other processes may see later; with SEQ, an exchange."""

    at: str
    value: Any
    order: str = RELAXED


class Fence(NamedTuple):
    """A full fence: `atomic_thread_fence(memory_order_seq_cst)`."""


class Choose(NamedTuple):
    """Answered by one of the options; each of them is tried."""

    options: tuple[Any, ...]


class Post(NamedTuple):
    """A message to all, by the kernel: it carries what its sender knows to everyone who looks at it."""

    at: str
    value: Any


class Await(NamedTuple):
    """Wait until the last message is another than this one; answered by it. Leave another at once."""

    at: str
    unlike: Any = None
    leave: Any = None


class FutexWait(NamedTuple):
    """Fall asleep if the word has this value, checked and done in one step; answered by whether it did."""

    at: str
    value: Any
    asleep: str


class Quiet(NamedTuple):
    """Wait until nobody else can do anything. Then all stores have reached everyone."""


class Done(NamedTuple):
    """The end of the program."""


class Broken(Exception):
    """A promise does not hold; the text says which. As an operation: the process found out."""


Operation = Load | Store | Fence | Choose | Post | Await | FutexWait | Quiet | Done | Broken
Code = Callable[[], Generator[Any, Any, None]]


class State(NamedTuple):
    """A state of a process: its next operation, its local variables, and two ways to come here."""

    operation: Operation
    variables: dict[str, Any]
    history: tuple[Any, ...]
    other: tuple[Any, ...]


class Program:
    """The states of one process, numbered from 0, as far as they came up."""

    def __init__(self, name: str, code: Code) -> None:
        self.name = name
        self.states: list[State] = []
        self._code = code
        self._numbers: dict[Any, int] = {}
        self._steps: dict[tuple[int, Any], int] = {}
        self._play(())

    def after(self, number: int, answer: Any) -> int:
        """Return the number of the state that follows on an answer."""
        if (number, answer) not in self._steps:
            self._steps[number, answer] = self._play((*self.states[number].history, answer))
        return self._steps[number, answer]

    def check(self) -> None:
        """Make each step that was made once more, after the other history: it must lead to the same state."""
        for (number, answer), after in list(self._steps.items()):
            assert self._play((*self.states[number].other, answer)) == after, (
                f"{self.name} hides a part of its state: {self.states[number].operation}, answered {answer}"
            )

    def _play(self, history: tuple[Any, ...]) -> int:
        generator = self._code()
        operation: Operation
        try:
            operation = next(generator)
            for answer in history:
                operation = generator.send(answer)
        except StopIteration:
            operation = Done()
        except Broken as broken:
            operation = broken
        return self._number(operation, _frames(generator), history)

    def _number(self, operation: Operation, frames: list[Any], history: tuple[Any, ...]) -> int:
        variables = {name: value for _, _, items in frames for name, value in items}
        identity = str(operation) if isinstance(operation, Broken) else tuple(frames)
        number = self._numbers.setdefault(identity, len(self.states))
        if number == len(self.states):
            self.states.append(State(operation, variables, history, history))
        elif history != self.states[number].history:
            self.states[number] = self.states[number]._replace(other=history)
        return number


def _frames(generator: Generator[Any, Any, None]) -> list[Any]:
    """Return where a generator stands, and those that it waits for, each with its variables."""
    frames: list[Any] = []
    inner: Any = generator
    while inner is not None and inner.gi_frame is not None:
        frame = inner.gi_frame
        frames.append((frame.f_code, frame.f_lasti, tuple(sorted(frame.f_locals.items()))))
        inner = inner.gi_yieldfrom
    return frames
