"""The demo: builds the index, publishes it, starts readers, and prints figures of them."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console, OverflowMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

import shmclient
from shmhost import embedded
from shmhost.commands.demo import index as word_index
from shmhost.commands.demo.claims import judge
from shmhost.commands.demo.native import compile_example
from shmhost.commands.demo.processes import (
    Reader,
    ending_by_signal,
    measure,
    outcome_of_write,
    report_of,
    running,
)
from shmhost.commands.demo.reader import lookups_per_s
from shmprotocol.kernel.constants import MIB

NAME = "demo/words"
BENCH_S = 1.0
FILES_MIN = 1500  # a standard library with its tests has more: 1,790 in CPython 3.11
MAX_PLACES = 40  # of a word, on the screen
LEGEND = """\
MiB: private  its own memory: interpreter, heap, stack; not the region
     region   the pages of the region that it has read
     PSS      those pages, each divided by the number of processes that have it"""


def demo(word: str | None, console: Console) -> int:
    """Run the demo and return its exit code: 0, or 1 if a claim does not hold.

    With a word: print its occurrences instead, and return 1 if there are none.
    """
    with ending_by_signal(), embedded() as host, shmclient.connect(host.socket_path) as shm:
        words = _collect(console)
        region = _publish(shm, words)
        if word is not None:
            return _print_places(console, region, word)
        _print_summary(console, words, region)
        del words
        with tempfile.TemporaryDirectory(prefix="shmhost-demo-") as folder:
            native = compile_example(console, "reader", folder)
            return _show(console, host.socket_path, region, native)


def _collect(console: Console) -> word_index.Words:
    folder, files = word_index.standard_library()
    words = word_index.Words()
    columns = (TextColumn("Reading {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"the library of Python {platform.python_version()}", total=len(files))
        for words in word_index.read_words(folder, files):  # noqa: B007 - the last one is whole
            progress.advance(task)
    for note in _shortcomings(folder, words):
        console.print(note, style="yellow", markup=False, highlight=False)
    return words


def _shortcomings(folder: Path, words: word_index.Words) -> Iterator[str]:
    if words.unreadable:
        yield f"{words.unreadable:,} files cannot be read; they are skipped."
    if len(words.files) < FILES_MIN:
        yield (
            f"There are only {len(words.files):,} files in {folder}, where a whole standard library has more "
            f"than {FILES_MIN:,}: its tests may not be installed."
        )


def _publish(shm: shmclient.Client, words: word_index.Words) -> shmclient.Region:
    with shm.create(NAME, words.size()) as builder:
        word_index.build(builder, word_index.make_ffi(), words)
    return shm.open(NAME)


def _print_summary(console: Console, words: word_index.Words, region: shmclient.Region) -> None:
    console.print(
        f"Published [bold]{NAME}[/]: {len(words.files):,} files, {len(words.postings):,} words, "
        f"{words.posting_count():,} places.\n"
        f"One region of {region.size / MIB:.1f} MiB at [bold]{region.address:#x}[/]; it is sealed now.",
        highlight=False,
    )


def _print_places(console: Console, region: shmclient.Region, word: str) -> int:
    ffi = word_index.make_ffi()
    folder, _ = word_index.standard_library()
    root = region.root(ffi, "struct word_index *")
    occurrences = list(word_index.places(ffi, root, os.fsencode(word)))
    for name, line in occurrences[:MAX_PLACES]:
        content = (folder / name).read_bytes().split(b"\n")[line - 1].decode(errors="replace")
        text = Text.assemble((f"{name}:{line}", "bold"), "  ", content.strip())
        # A terminal gets one row for each; a pipe the whole line.
        overflow: OverflowMethod = "ellipsis" if console.is_terminal else "ignore"
        console.print(text, no_wrap=True, overflow=overflow, crop=console.is_terminal)
    if len(occurrences) > MAX_PLACES:
        console.print(f"... and {len(occurrences) - MAX_PLACES:,} more", highlight=False)
    lines = "line" if len(occurrences) == 1 else "lines"
    console.print(f"{word!r} occurs in {len(occurrences):,} {lines}", markup=False, highlight=False)
    return 0 if occurrences else 1


def _show(console: Console, socket_path: str, region: shmclient.Region, native: str | None) -> int:
    commands = {"Python": [sys.executable, "-m", "shmhost.commands.demo.reader", NAME]}
    if native is not None:
        start = [sys.executable, "-m", "shmclient", "exec", "--region", NAME, "--"]
        commands["C"] = [*start, native, NAME]
    environment = os.environ | {"SHMHOST_SOCKET": socket_path}
    readers = _read_together(region, commands, environment)
    console.print(_table(readers))
    console.print(LEGEND, style="dim", highlight=False)
    good = _is_one_copy(console, region, readers)
    good = _is_safe(console, region, commands, environment) and good
    return 0 if good else 1


def _read_together(
    region: shmclient.Region, commands: dict[str, list[str]], environment: dict[str, str]
) -> list[Reader]:
    """Look words up in this process and in readers at once; measure all of them while they run."""
    with contextlib.ExitStack() as stack:
        children = {
            who: stack.enter_context(running([*command, "--bench", str(BENCH_S)], environment))
            for who, command in commands.items()
        }
        ffi = word_index.make_ffi()
        root = region.root(ffi, "struct word_index *")
        rate, missed = lookups_per_s(ffi, root, BENCH_S)
        own = {"pid": os.getpid(), "address": region.address, "lookups_per_s": rate, "missed": missed}
        reports = {"publisher": own} | {who: report_of(child) for who, child in children.items()}
        return [measure(who, report) for who, report in reports.items()]


def _table(readers: list[Reader]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("process", no_wrap=True)
    for column in ("pid", "address", "lookups/s", "private", "region", "PSS"):
        table.add_column(column, justify="right", no_wrap=True)
    for reader in readers:
        table.add_row(
            reader.who,
            str(reader.pid),
            f"{reader.address:#x}",
            f"{reader.lookups_per_s:,.0f}",
            *(f"{size / MIB:.1f}" for size in (reader.private, reader.resident, reader.share)),
        )
    return table


def _is_one_copy(console: Console, region: shmclient.Region, readers: list[Reader]) -> bool:
    """Print and return whether all readers have the region at one address and in the same memory."""
    same = len({reader.address for reader in readers}) == 1
    judge(console, same, f"The base address is the same in all {len(readers)} processes.")
    read = sum(reader.resident for reader in readers) / MIB
    taken = sum(reader.share for reader in readers) / MIB
    is_one_copy = taken <= region.header.capacity / MIB
    judge(
        console,
        is_one_copy,
        f"They read {read:.1f} MiB of it, in {taken:.1f} MiB (sum of PSS): one copy.",
    )
    return same and is_one_copy


def _is_safe(
    console: Console, region: shmclient.Region, commands: dict[str, list[str]], environment: dict[str, str]
) -> bool:
    """Have each reader write to the region; print and return whether the kernel stopped all of them."""
    before = zlib.crc32(region.data)
    good = True
    for who, command in commands.items():
        problem = outcome_of_write(command, environment, region.address)
        claim = f"The kernel ends a {who} process that writes to it, with SIGSEGV"
        judge(console, not problem, f"{claim}: {problem}" if problem else f"{claim}.")
        good = good and not problem
    same = zlib.crc32(region.data) == before
    judge(console, same, "No byte of the region has changed.")
    return good and same
