"""The demo of the containers: a publisher that replaces its data, and readers that follow, each in its own.

demo.py publish --readers A,B,... [--apart]
                                    publish a word index and an array, some generations of them; wait for
                                    what each reader found, and show it. Exit code 1 if it is not the same.
                                    --apart: the readers are clients of other hosts of a fleet
demo.py read NAME [--program P]     read each generation (or start P to read it), and report; for ever
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import shmclient
from shmhost.commands.demo import index as word_index
from shmhost.commands.demo.processes import memory_of, report_of, running
from shmhost.commands.demo.reader import lookups_per_s

WORDS, ARRAY, REPORTS = "demo/words", "demo/array", "demo/reports/"
ARRAY_SIZE = 96 << 20  # bytes: a container's /dev/shm has 64 MiB
GENERATIONS = 3
GROUP_READS = 0o640
WAIT_S = 120.0  # for readers to report; they wait for the publisher for ever
MIB = 1 << 20


def publish(shm: shmclient.Client, readers: Sequence[str], console: Console, *, is_apart: bool) -> int:
    """Publish generation after generation, each when all readers have reported on the one before it.

    Readers that are apart are clients of other hosts of a fleet, and have copies of their own.
    """
    folder, files = word_index.standard_library()
    good = True
    for number in range(1, GENERATIONS + 1):
        for words in word_index.read_words(folder, files[: len(files) * number // GENERATIONS]):  # noqa: B007
            pass  # the last one is whole
        with shm.create(WORDS, words.size(), mode=GROUP_READS) as builder:
            word_index.build(builder, word_index.make_ffi(), words)
        content = np.random.default_rng(number).integers(0, 2**63, ARRAY_SIZE // 8, dtype="i8")
        shm.put(ARRAY, content, mode=GROUP_READS).close()
        del content
        with shm.open(WORDS) as index, shm.open(ARRAY) as array:
            own = report_by_python(index, array) | {"reader": "publisher", "uid": os.getuid()}
            reports = wait_for_reports(shm, readers, index.generation, array.generation)
            good = show(console, [own, *reports]) and good
            if not is_apart:
                good = show_sharing(console, index, array, 1 + len(readers)) and good
    return 0 if good else 1


def wait_for_reports(
    shm: shmclient.Client, readers: Sequence[str], words: int, array: int
) -> list[dict[str, Any]]:
    """Return each reader's report on these generations; ShmError names the readers without one."""
    deadline = time.monotonic() + WAIT_S
    reports: dict[str, dict[str, Any]] = {}
    while missing := [reader for reader in readers if reader not in reports]:
        if time.monotonic() > deadline:
            raise shmclient.ShmError(f"no report within {WAIT_S:g} s from {', '.join(missing)}")
        for reader in missing:
            with contextlib.suppress(shmclient.RegionNotFound):
                report = json.loads(bytes(shm.get(REPORTS + reader)))
                if (report["words"]["generation"], report["array"]["generation"]) == (words, array):
                    reports[reader] = report
        time.sleep(0.05)
    return [reports[reader] for reader in readers]


def show(console: Console, reports: list[dict[str, Any]]) -> bool:
    """Print all reports on one generation, and return whether they are right."""
    generation = reports[0]["array"]["generation"]
    table = Table(title=f"generation {generation}", box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("reader", no_wrap=True)
    for column in ("uid", "words at", "array at", "CRC-32", "private", "regions"):
        table.add_column(column, justify="right", no_wrap=True)
    for report in reports:
        checksum = f"{report['words']['crc32'] ^ report['array']['crc32']:08x}"
        sizes = (f"{report[key] / MIB:.1f}" for key in ("private", "resident"))
        addresses = (f"{report[key]['address']:#x}" for key in ("words", "array"))
        table.add_row(report["reader"], str(report["uid"]), *addresses, checksum, *sizes)
    console.print(table)
    same = all(report[key] == reports[0][key] for report in reports for key in ("words", "array"))
    is_complete = not any(report["missed"] for report in reports)
    judge(console, same, "All have the same regions at the same addresses, with the same checksums.")
    judge(console, is_complete, "All words are found by their pointers.")
    return same and is_complete


def show_sharing(console: Console, index: shmclient.Region, array: shmclient.Region, count: int) -> bool:
    """Print and return whether `count` processes have the regions' pages, each its share of one copy (PSS).

    The readers go on reading, so that all of them have all pages at some moment from now on.
    """
    size, deadline = index.size + array.size, time.monotonic() + 30
    share = size
    while share > size / count * 1.05 and time.monotonic() < deadline:
        time.sleep(0.1)
        share = memory(os.getpid(), found_in(index, array))["share"]
    is_so = share <= size / count * 1.05
    text = f"The publisher's share is {share / MIB:.1f} of {size / MIB:.1f} MiB (PSS)"
    judge(console, is_so, f"{text}: {count} processes, one copy.")
    return is_so


def judge(console: Console, is_so: bool, claim: str) -> None:
    """Print a claim, and whether it holds."""
    console.print(f"{'✓' if is_so else '✗ NOT SO:'} {claim}", highlight=False)


def read(shm: shmclient.Client, name: str, program: str | None) -> None:
    """Report on each generation; keep reading it until there is another, with or without a host."""
    while True:
        index, array = shm.open_many([WORDS, ARRAY], wait=math.inf)
        with index, array:
            try:
                report = report_by_program(program) if program else report_by_python(index, array)
            except shmclient.ShmError as error:  # the host stopped while the program was starting
                say(name, f"no report: {error}")
                continue
            pair = [report[key] for key in ("words", "array")]
            say(
                name,
                ", ".join(f"generation {region['generation']} at {region['address']:#x}" for region in pair),
            )
            content = json.dumps(report | {"reader": name, "uid": os.getuid()}).encode()
            with contextlib.suppress(shmclient.HostGone, shmclient.RegionBusy):
                shm.put(REPORTS + name, content, mode=GROUP_READS).close()
            read_on(shm, name, index, array)


def report_by_python(index: shmclient.Region, array: shmclient.Region) -> dict[str, Any]:
    """Look words up by their pointers, sum everything up, and look at this process's memory."""
    ffi = word_index.make_ffi()
    _, missed = lookups_per_s(ffi, index.root(ffi, "struct word_index *"), 0.2)
    regions = found_in(index, array)
    return regions | {"missed": missed} | memory(os.getpid(), regions)


def report_by_program(program: str) -> dict[str, Any]:
    """Have a native program do the same, with descriptors that it inherits."""
    start = ["shmclient", "exec", "--region", WORDS, "--region", ARRAY, "--"]
    with running([*start, program, WORDS, ARRAY], os.environ) as child:
        report = report_of(child)
        return report | memory(report["pid"], report)


def found_in(index: shmclient.Region, array: shmclient.Region) -> dict[str, Any]:
    """Return address, generation and checksum of both regions."""
    return {
        key: {"address": region.address, "generation": region.generation, "crc32": zlib.crc32(region.data)}
        for key, region in (("words", index), ("array", array))
    }


def memory(pid: int, regions: dict[str, Any]) -> dict[str, int]:
    """Return the bytes that a process takes: of its own, of the regions, and its share of those (PSS)."""
    sizes = memory_of(pid, [regions[key]["address"] for key in ("words", "array")])
    return dict(zip(("private", "resident", "share"), sizes, strict=True))


def read_on(shm: shmclient.Client, name: str, index: shmclient.Region, array: shmclient.Region) -> None:
    """Go on with what is mapped until one of the two is replaced; check that not a bit of it changes."""
    before = found_in(index, array)
    was_there = True
    is_current = True
    while is_current:
        is_current = index.is_current() and array.is_current()  # asks nobody, and goes on without a host
        try:
            shm.exists(index.name)
            is_there = True
        except (shmclient.HostGone, shmclient.HostTimeout):
            is_there = False
        if is_there != was_there:
            say(name, "the host is back" if is_there else "the host is gone: still reading")
            was_there = is_there
        if found_in(index, array) != before:
            sys.exit(f"{name}: sealed data has changed")
        time.sleep(0.3 if is_current else 0)
    generations = [f"generation {before[key]['generation']}" for key in ("words", "array")]
    say(name, f"{', '.join(generations)}: replaced, and unchanged")


def say(name: str, text: str) -> None:
    """Print a line of a reader's log."""
    print(f"{name}: {text}", flush=True)


def main() -> int:
    """Run as publisher or reader. The host may start later, and start anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    publisher = commands.add_parser("publish")
    publisher.add_argument("--apart", action="store_true")
    publisher.add_argument("--readers", type=lambda text: text.split(","), required=True, metavar="A,B,...")
    reader = commands.add_parser("read")
    reader.add_argument("name")
    reader.add_argument("--program")
    options = parser.parse_args()
    with shmclient.connect(wait=60) as shm:
        if options.command == "publish":
            return publish(shm, options.readers, Console(width=100), is_apart=options.apart)
        read(shm, options.name, options.program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
