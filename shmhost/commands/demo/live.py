"""The live demo: an owner rewrites frames in an arena, readers check each; prints figures while they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import shmclient
from shmhost import embedded
from shmhost.commands.demo.claims import judge
from shmhost.commands.demo.frames import ARENA, FRAME_SIZE, NAME, WAIT_S
from shmhost.commands.demo.native import compile_example
from shmhost.commands.demo.processes import ending_by_signal, memory_of, outcome_of_write, running
from shmhost.commands.demo.reports import Reports, Stream
from shmprotocol.kernel.constants import GIB, MIB

REFRESH_S = 0.25
PYTHON_READERS = 2
SETTLE_S = 5.0  # processes are looked at one after the other, while the first frames take more pages
LEGEND = """\
age: us from when a frame was published to when a reader has it
MiB: own    interpreter, heap, stack; not the arena
     arena  the pages of the arena that it has touched
     PSS    those pages, each divided by the number of processes that have it"""
Memory = dict[int, tuple[int, int, int]]  # by pid: see `memory_of`


def live(seconds: float, console: Console) -> int:
    """Run the live demo for some seconds; return its exit code: 0, or 1 if a claim does not hold."""
    with (
        ending_by_signal(),
        tempfile.TemporaryDirectory(prefix="shmhost-demo-") as folder,
        embedded() as host,
        shmclient.connect(host.socket_path) as shm,
        ExitStack() as stack,
    ):
        environment = os.environ | {"SHMHOST_SOCKET": host.socket_path}
        readers = reader_commands(compile_example(console, "frame_reader", folder))
        children = {"owner": stack.enter_context(running(_python("own"), environment))}
        shm.open_arena(ARENA, wait=WAIT_S).close()
        for who, command in readers.items():
            children[who] = stack.enter_context(running(command, environment))
        reports = Reports(children)
        reports.wait_for_all(2 * WAIT_S)
        address = shm.stat(ARENA).address
        memory = _watch(console, reports, address, seconds)
        good = _is_whole(console, reports.streams)
        good = _is_one_copy(console, memory) and good
        good = _is_safe(console, readers, environment, address) and good
    return 0 if good else 1


def reader_commands(native: str | None) -> dict[str, list[str]]:
    """Return the readers to start: those in Python, and one in C if there is a compiler."""
    commands = {f"Python {number}": _python("read") for number in range(1, PYTHON_READERS + 1)}
    if native is not None:
        commands["C"] = [*_inheriting(), native, ARENA, NAME]
    return commands


def _python(*task: str) -> list[str]:
    return [sys.executable, "-m", "shmhost.commands.demo.frames", *task]


def _inheriting() -> list[str]:
    return [sys.executable, "-m", "shmclient", "exec", "--region", ARENA, "--wait", str(WAIT_S), "--"]


def _watch(console: Console, reports: Reports, address: int, seconds: float) -> Memory:
    """Show the figures until the time is over; return the last of the memory."""
    end = time.monotonic() + seconds
    with Live(console=console, auto_refresh=False, transient=True) as screen:
        while (left := end - time.monotonic()) > 0:
            reports.collect(min(REFRESH_S, left))
            memory = _memory(reports.streams, address)
            drawing = figures(reports.streams, memory, end - time.monotonic())
            screen.update(drawing, refresh=console.is_terminal)
    memory = _memory(reports.streams, address)
    end += SETTLE_S
    while not _shares_one_copy(memory) and time.monotonic() < end:
        reports.collect(REFRESH_S)
        memory = _memory(reports.streams, address)
    console.print(figures(reports.streams, memory, 0))
    return memory


def _memory(streams: Sequence[Stream], address: int) -> Memory:
    """Look at the memory of all processes, this one with its host among them, which has no arena mapped."""
    memory = {stream.pid: memory_of(stream.pid, [address]) for stream in streams}
    return memory | {os.getpid(): memory_of(os.getpid(), [])}


def figures(streams: Sequence[Stream], memory: Memory, left_s: float) -> Group:
    """Draw what the processes do, and the memory that they take."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("process", no_wrap=True)
    for column in ("pid", "values/s", "GiB/s", "age p50", "p99", "own", "arena", "PSS"):
        table.add_column(column, justify="right", no_wrap=True)
    for stream in streams:
        ages = map(stream.age_us, ("p50_us", "p99_us"))
        table.add_row(
            stream.who,
            str(stream.pid),
            f"{stream.rate:,.0f}",
            f"{stream.rate * FRAME_SIZE / GIB:.1f}",
            *("" if age is None else f"{age:,.0f}" for age in ages),
            *(f"{size / MIB:.1f}" for size in memory[stream.pid]),
        )
    own = memory[os.getpid()][0]
    table.add_row("host", str(os.getpid()), "", "", "", "", f"{own / MIB:.1f}", "", "")
    private, _, share = (sum(sizes) for sizes in zip(*memory.values(), strict=True))
    frames = f"{streams[0].values:,} frames of {FRAME_SIZE // MIB} MiB so far"
    together = f"All together take {(private + share) / MIB:.1f} MiB."
    rest = f" {left_s:.0f} s to go." if left_s > 0 else ""
    return Group(table, Text(LEGEND, style="dim"), Text(f"{frames}. {together}{rest}"))


def _is_whole(console: Console, streams: Sequence[Stream]) -> bool:
    """Print and return whether no reader has seen a frame that was written to."""
    owner, *readers = streams
    checked, broken = (sum(getattr(reader, name) for reader in readers) for name in ("values", "broken"))
    claim = f"{owner.values:,} frames were written, and {checked:,} checked: {broken or 'none'} torn."
    return judge(console, broken == 0 < checked, claim)


def _shares_one_copy(memory: Memory) -> bool:
    most = max(resident for _, resident, _ in memory.values())
    return sum(share for _, _, share in memory.values()) <= most * 1.05


def _is_one_copy(console: Console, memory: Memory) -> bool:
    touched = sum(resident for _, resident, _ in memory.values()) / MIB
    share = sum(share for _, _, share in memory.values()) / MIB
    claim = f"They use {touched:.1f} MiB of the arena, in {share:.1f} MiB (sum of PSS): one copy."
    return judge(console, _shares_one_copy(memory), claim)


def _is_safe(
    console: Console, readers: Mapping[str, list[str]], environment: dict[str, str], address: int
) -> bool:
    """Have readers try to write; print and return whether the kernel let none of them."""
    good = True
    for language in dict.fromkeys(who.split()[0] for who in readers):
        command = next(command for who, command in readers.items() if who.startswith(language))
        problem = outcome_of_write(command, environment, address)
        claim = f"The kernel ends a reader in {language} that writes to a frame, with SIGSEGV"
        good = judge(console, not problem, f"{claim}: {problem}" if problem else f"{claim}.") and good
    outcomes = _reopened(environment)
    texts = ", ".join(f"{name} {error or 'SUCCEEDS'}" for name, error in outcomes.items())
    return judge(console, set(outcomes.values()) == {"EPERM"}, f"Opened anew, for writing: {texts}.") and good


def _reopened(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a reader can do with a descriptor that it has opened for writing, by /proc."""
    command = [*_inheriting(), *_python("reopen")]
    output = subprocess.check_output(command, env=environment, text=True, timeout=WAIT_S)
    outcomes: dict[str, str] = json.loads(output)
    return outcomes
