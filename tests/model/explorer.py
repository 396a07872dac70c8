"""Go through everything that processes may do, and return the shortest way to a broken promise, if any.

The search is breadth first over all states, each visited once. A store goes together with the step before it:
with store buffers nobody sees it before it drains, and in C11 it only adds to what others may read. A process
may be killed, or stopped for ever, before any of its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from model.memory import Buffered, Views, Word
from model.programs import (
    SEQ,
    Await,
    Broken,
    Choose,
    Code,
    Done,
    Fence,
    FutexWait,
    Load,
    Post,
    Program,
    Quiet,
    Store,
)

KILLED, STOPPED = -1, -2  # in place of the number of a process's state
DEAD = "dead"  # the message with the names of those who were killed

Guard = Callable[[str, dict[str, dict[str, Any]]], str | None]


@dataclass(frozen=True)
class Protocol:
    """Processes, the words that they share, and what must hold."""

    words: dict[str, Word]
    processes: dict[str, Code]
    guard: Guard = lambda _at, _variables: (
        None
    )  # is asked before a value reaches a word; says what that breaks
    mortal: frozenset[str] = frozenset()
    may_stop: frozenset[str] = frozenset()
    servants: frozenset[str] = frozenset()  # may wait for ever
    deaths: int = 1  # the most that die, or stop, in one run


class Moment(NamedTuple):
    """A state of everything."""

    numbers: tuple[int, ...]
    memory: Any


class Step(NamedTuple):
    """Who did what: a step with its answer, a drain, a death."""

    process: int
    kind: str
    answer: Any = None


@dataclass(frozen=True)
class Outcome:
    """What the search came to."""

    model: str
    states: int
    broken: str | None
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        result = self.broken or "no promise is broken"
        return "\n".join([f"{self.model}, {self.states} states: {result}", *self.trace])


class Explorer:
    """The search over one protocol under one model of memory."""

    def __init__(self, protocol: Protocol, model: type[Buffered] | type[Views]) -> None:
        self._protocol = protocol
        self._names = list(protocol.processes)
        self._programs = [Program(name, code) for name, code in protocol.processes.items()]
        self._memory = model(protocol.words, self._names)

    def run(self, limit: int = 5_000_000) -> Outcome:
        """Visit all states, or stop at the first that breaks a promise."""
        first = self._start()
        parents: dict[Moment, tuple[Moment, Step] | None] = {first: None}
        layer = [first]
        while layer:
            upcoming: list[Moment] = []
            for moment in layer:
                try:
                    for step, after in self._successors(moment):
                        if after not in parents:
                            parents[after] = moment, step
                            upcoming.append(after)
                except _BrokenAt as broken:
                    return self._outcome(parents, moment, broken)
            assert len(parents) < limit, f"over {limit} states: choose smaller sizes"
            layer = upcoming
        for program in self._programs:
            program.check()
        return Outcome(self._memory.title, len(parents), None)

    def _start(self) -> Moment:
        moment = Moment((0,) * len(self._names), self._memory.start)
        for process in range(len(self._names)):
            moment = self._stores(moment, process)
        return moment

    def _successors(self, moment: Moment) -> Iterator[tuple[Step, Moment]]:
        is_quiet = True
        for process in range(len(self._names)):
            for step, after in self._moves(moment, process):
                is_quiet = False
                yield step, after
        if is_quiet:
            yield from self._after_silence(moment)
        yield from self._ends(moment)

    def _moves(self, moment: Moment, process: int) -> Iterator[tuple[Step, Moment]]:
        for at, value, memory in self._memory.drains(moment.memory, process):
            step = Step(process, "drain", (at, value))
            self._ask_guard(moment, step, at)
            yield step, Moment(moment.numbers, memory)
        number = moment.numbers[process]
        if number < 0:
            return
        operation = self._programs[process].states[number].operation
        if isinstance(operation, Store):
            self._ask_guard(moment, Step(process, "step"), operation.at)
        try:
            for answer, memory in self._answers(operation, moment.memory, process):
                step = Step(process, "step", answer)
                yield step, self._go(moment, step, memory)
        except Broken as broken:
            raise _BrokenAt(Step(process, "step", "..."), str(broken)) from None

    def _answers(self, operation: Any, memory: Any, process: int) -> Iterator[tuple[Any, Any]]:
        model = self._memory
        match operation:
            case Load(at, order):
                yield from model.load(memory, process, at, order)
            case Choose(options):
                yield from ((option, memory) for option in options)
            case Await():
                yield from self._await(operation, memory, process)
            case FutexWait():
                yield from self._futex_wait(operation, memory, process)
            case Store() | Fence() | Post():
                if (after := self._written(operation, memory, process)) is not None:
                    yield None, after

    def _written(self, operation: Any, memory: Any, process: int) -> Any | None:
        """Return the memory after what waits for the stores before it, or None as long as it does."""
        match operation:
            case Store(at, value):
                return self._memory.exchange(memory, process, at, value)
            case Post(at, value):
                return self._memory.post(memory, process, at, value)
        return self._memory.fence(memory, process)

    def _await(self, wait: Await, memory: Any, process: int) -> Iterator[tuple[Any, Any]]:
        value, after = self._memory.look(memory, process, wait.at)
        if value != wait.unlike and wait.leave is not None:
            after = self._memory.post(after, process, wait.at, wait.leave)
        if value != wait.unlike and after is not None:
            yield value, after

    def _futex_wait(self, wait: FutexWait, memory: Any, process: int) -> Iterator[tuple[bool, Any]]:
        """Compare and sleep under the lock of the futex, after a full fence: futex_wait(), Linux 6.18."""
        if (fenced := self._memory.fence(memory, process)) is None:
            return
        _, locked = self._memory.look(fenced, process, wait.asleep)
        for value, loaded in self._memory.load(locked, process, wait.at, "acquire"):
            sleeps = value == wait.value
            yield sleeps, self._memory.post(loaded, process, wait.asleep, sleeps)

    def _go(self, moment: Moment, step: Step, memory: Any) -> Moment:
        """Move a process on by an answer, and through the stores that follow."""
        process = step.process
        number = self._programs[process].after(moment.numbers[process], step.answer)
        numbers = (*moment.numbers[:process], number, *moment.numbers[process + 1 :])
        try:
            return self._stores(Moment(numbers, memory), process)
        except Broken as broken:
            raise _BrokenAt(step, str(broken)) from None

    def _stores(self, moment: Moment, process: int) -> Moment:
        program, (numbers, memory) = self._programs[process], moment
        number = numbers[process]
        while _is_plain_store(operation := program.states[number].operation):
            if isinstance(self._memory, Views):
                self._guard(operation.at, numbers)
            memory = self._memory.store(memory, process, *operation)
            number = program.after(number, None)
        if isinstance(operation, Broken):
            raise operation
        if isinstance(operation, Done):
            memory = self._memory.leave(memory, process)
        return Moment((*numbers[:process], number, *numbers[process + 1 :]), memory)

    def _after_silence(self, moment: Moment) -> Iterator[tuple[Step, Moment]]:
        """Nobody can do anything: let those go on who wait for that, or see who waits in vain."""
        waiting = []
        stopped = moment.numbers.count(STOPPED)
        for process, number in enumerate(moment.numbers):
            operation = self._programs[process].states[number].operation if number >= 0 else Done()
            if isinstance(operation, Quiet):
                step = Step(process, "step", stopped)
                yield step, self._go(moment, step, self._memory.settle(moment.memory, process))
                return
            if not isinstance(operation, Done) and self._names[process] not in self._protocol.servants:
                waiting.append(process)
        if waiting:
            raise _BrokenAt(Step(waiting[0], "waits"), f"{self._names[waiting[0]]} waits for ever")

    def _ends(self, moment: Moment) -> Iterator[tuple[Step, Moment]]:
        if sum(number < 0 for number in moment.numbers) >= self._protocol.deaths:
            return
        for process, number in enumerate(moment.numbers):
            name = self._names[process]
            if number < 0 or isinstance(self._programs[process].states[number].operation, Done):
                continue
            if name in self._protocol.mortal:
                yield Step(process, "is killed"), self._kill(moment, process)
            if name in self._protocol.may_stop:
                numbers = (*moment.numbers[:process], STOPPED, *moment.numbers[process + 1 :])
                yield Step(process, "is stopped"), Moment(numbers, moment.memory)

    def _kill(self, moment: Moment, process: int) -> Moment:
        numbers = (*moment.numbers[:process], KILLED, *moment.numbers[process + 1 :])
        memory = self._memory.kill(moment.memory, process)
        dead, _ = self._memory.look(memory, process, DEAD)
        memory = self._memory.post(memory, process, DEAD, (*dead, self._names[process]))
        return Moment(numbers, self._memory.leave(memory, process))

    def _guard(self, at: str, numbers: tuple[int, ...]) -> None:
        variables = {
            program.name: program.states[number].variables
            for program, number in zip(self._programs, numbers, strict=True)
            if number >= 0
        }
        if (broken := self._protocol.guard(at, variables)) is not None:
            raise Broken(broken)

    def _ask_guard(self, moment: Moment, step: Step, at: str) -> None:
        try:
            self._guard(at, moment.numbers)
        except Broken as broken:
            raise _BrokenAt(step, str(broken)) from None

    def _outcome(self, parents: dict[Any, Any], moment: Moment, broken: _BrokenAt) -> Outcome:
        trace = self._lines(moment, broken.step)
        count = len(parents)
        while (link := parents[moment]) is not None:
            moment, step = link
            trace[:0] = self._lines(moment, step)
        return Outcome(self._memory.title, count, broken.text, trace)

    def _lines(self, moment: Moment, step: Step) -> list[str]:
        """Write one step for a reader, with the stores that go with it."""
        name, number = self._names[step.process], moment.numbers[step.process]
        if step.kind == "drain":
            at, value = step.answer
            return [f"  {name:10} | memory: {at} = {value}"]
        if step.kind != "step":
            return [f"  {name:10} | {step.kind}"]
        program = self._programs[step.process]
        lines = [f"  {name:10} | {_text(program.states[number].operation, step.answer)}"]
        if step.answer == "...":
            return lines
        number = program.after(number, step.answer)
        while _is_plain_store(operation := program.states[number].operation):
            lines.append(f"  {name:10} | {_text(operation, None)}")
            number = program.after(number, None)
        return lines


class _BrokenAt(Exception):
    """The step that breaks a promise."""

    def __init__(self, step: Step, text: str) -> None:
        super().__init__(text)
        self.step = step
        self.text = text


def _is_plain_store(operation: Any) -> bool:
    return isinstance(operation, Store) and operation.order != SEQ


def _text(operation: Any, answer: Any) -> str:
    match operation:
        case Load(at, order):
            return f"load {at} ({order}) -> {answer}"
        case Store(at, value, order):
            return f"store {at} = {value} ({order})"
        case Post(at, value):
            return f"tell all: {at} = {value}"
        case Await(at):
            return f"is told: {at} = {answer}"
        case FutexWait(at, value, _):
            return f"futex wait while {at} is {value} -> {'sleeps' if answer else 'no'}"
        case Choose(_):
            return f"choose {answer}"
        case Quiet():
            return "nobody else does anything any more"
    return type(operation).__name__.lower()
