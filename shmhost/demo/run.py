"""The show: build the index, publish it, start readers, and print what can be seen of them."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import shmclient
from shmhost.demo import index as word_index
from shmhost.demo.reader import lookups_per_s
from shmhost.embedded import embedded

NAME = "demo/words"
BENCH_S = 1.0
WAIT_S = 20.0  # for a reader to answer; it takes about two seconds
PLACES_MAX = 40  # of a word, on the screen
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reader:
    """What a process reported, and what the kernel says of its memory. Sizes are bytes."""

    who: str
    pid: int
    address: int
    lookups_per_s: float
    private: int
    resident: int
    share: int


def demo(word: str | None, console: Console) -> int:
    """Run the demo and return its exit code: 0, or 1 when something is not as it should be.

    With a word: print where it occurs instead, and return 1 when it does not.
    """
    with embedded() as host, shmclient.connect(host.socket_path) as shm:
        words = _collect(console)
        region = _publish(shm, words)
        if word is not None:
            return _print_places(console, region, word)
        console.print(
            f"Published [bold]{NAME}[/]: {len(words.files):,} files, {len(words.postings):,} words, "
            f"{words.posting_count():,} places.\n"
            f"One region of {region.size / MIB:.1f} MiB at [bold]{region.address:#x}[/]; it is sealed now."
        )
        del words
        with tempfile.TemporaryDirectory(prefix="shmhost-demo-") as folder:
            native = _compile(console, folder)
            return _show(console, host.socket_path, region, native)


def _collect(console: Console) -> word_index.Words:
    folder, files = word_index.standard_library()
    words = word_index.Words()
    columns = (TextColumn("Reading {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{folder}", total=len(files))
        for words in word_index.read_words(folder, files):  # noqa: B007 - the last one is whole
            progress.advance(task)
    return words


def _publish(shm: shmclient.Client, words: word_index.Words) -> shmclient.Region:
    with shm.create(NAME, words.size()) as builder:
        word_index.build(builder, word_index.make_ffi(), words)
    return shm.open(NAME)


def _print_places(console: Console, region: shmclient.Region, word: str) -> int:
    ffi = word_index.make_ffi()
    folder, _ = word_index.standard_library()
    root = region.root(ffi, "struct word_index *")
    found = list(word_index.places(ffi, root, word.encode()))
    for name, line in found[:PLACES_MAX]:
        text = (folder / name).read_bytes().split(b"\n")[line - 1].decode(errors="replace").strip()
        console.print(f"[bold]{name}:{line}[/]", end="  ")
        console.print(text, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")
    if len(found) > PLACES_MAX:
        console.print(f"... and {len(found) - PLACES_MAX:,} more")
    console.print(f"{word!r} occurs in {len(found):,} lines", highlight=False)
    return 0 if found else 1


def _compile(console: Console, folder: str) -> str | None:
    """Compile the C reader among the examples; None, and a word about it, when that cannot be done."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        console.print(
            "[yellow]No C compiler is here, so there is no C reader: apt-get install gcc libc6-dev[/]"
        )
        return None
    program = os.path.join(folder, "reader")
    source = importlib.resources.files("shmprotocol.examples") / "reader.c"
    include = importlib.resources.files("shmprotocol")
    with importlib.resources.as_file(source) as path, importlib.resources.as_file(include) as headers:
        command = [compiler, "-O2", "-std=c11", f"-I{headers}", str(path), "-o", program]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        console.print(f"[yellow]The C reader does not compile here:[/]\n{result.stderr}", highlight=False)
        return None
    return program


def _show(console: Console, socket_path: str, region: shmclient.Region, native: str | None) -> int:
    commands = {"Python": [sys.executable, "-m", "shmhost.demo.reader", NAME]}
    if native is not None:
        start = [sys.executable, "-m", "shmclient.cli", "exec", "--region", NAME, "--"]
        commands["C"] = [*start, native, NAME]
    environment = os.environ | {"SHMHOST_SOCKET": socket_path}
    with contextlib.ExitStack() as stack:
        children = {
            who: stack.enter_context(_child([*command, "--bench", str(BENCH_S)], environment))
            for who, command in commands.items()
        }
        ffi = word_index.make_ffi()
        root = region.root(ffi, "struct word_index *")
        rate, _ = lookups_per_s(ffi, root, BENCH_S)
        own = {"pid": os.getpid(), "address": region.address, "lookups_per_s": rate}
        readers = [_measure("publisher", own)]
        readers += [_measure(who, _report(child)) for who, child in children.items()]
    console.print(_table(readers))
    console.print("Memory in MiB: its own; of the region, the pages it has read; its share of them.")
    same = len({reader.address for reader in readers}) == 1
    console.print(_verdict(same, f"The base address is the same in all {len(readers)} processes."))
    total = sum(reader.share for reader in readers)
    console.print(f"  The shares add up to {total / MIB:.1f} MiB, as much as one process reads: one copy.")
    stopped = [_is_stopped(console, who, command, environment) for who, command in commands.items()]
    return 0 if same and all(stopped) else 1


@contextlib.contextmanager
def _child(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a reader until the block ends; the end of its input ends it, and SIGKILL if that does not."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as child:
        try:
            yield child
        finally:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(2)
            except BaseException:
                child.kill()
                raise


def _report(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise shmclient.ShmError(f"a reader ended early, with code {child.wait()}: see what it says above")
    report: dict[str, Any] = json.loads(line)
    if report["missed"]:
        raise shmclient.ShmError(f"a reader missed {report['missed']} words of the index: {report}")
    return report


def _measure(who: str, report: dict[str, Any]) -> Reader:
    pid, address = report["pid"], report["address"]
    rollup = _fields(Path(f"/proc/{pid}/smaps_rollup").read_text())
    region = _fields(_mapping(Path(f"/proc/{pid}/smaps").read_text(), address))
    private = rollup["Private_Clean"] + rollup["Private_Dirty"]
    private -= region["Private_Clean"] + region["Private_Dirty"]
    return Reader(who, pid, address, report["lookups_per_s"], private, region["Rss"], region["Pss"])


def _mapping(smaps: str, address: int) -> str:
    """Return what smaps says of the mapping that starts at an address (proc_pid_smaps(5))."""
    after = smaps.split(f"\n{address:08x}-", 1)[-1]
    return after.split("VmFlags:", 1)[0]


def _fields(text: str) -> dict[str, int]:
    """Return the sizes in a part of smaps, in bytes."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found


def _table(readers: list[Reader]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("process", no_wrap=True)
    for column in ("pid", "address", "lookups/s", "own", "of region", "its PSS"):
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


def _is_stopped(console: Console, who: str, command: list[str], environment: dict[str, str]) -> bool:
    """Have a reader write to the region; True when the kernel ended it for that."""
    child = subprocess.run(
        [*command, "--write"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )
    stopped = child.returncode == -signal.SIGSEGV
    what = "ended by SIGSEGV" if stopped else f"NOT stopped: exit code {child.returncode}"
    console.print(_verdict(stopped, f"A {who} reader that writes to the region: {what}."))
    return stopped


def _verdict(good: bool, text: str) -> str:
    return f"[green]✓[/] {text}" if good else f"[red]✗ {text}[/]"
