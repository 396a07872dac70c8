"""`make bench`: the figures of this machine against floors that are measured in the same run.

Every process is pinned. A row alternates between ours and the floor, in rounds, so that a drift of the
machine's speed hits both. `--check` makes a missed aim the exit code 1; `--json FILE` keeps the run, and
`--against FILE` compares with one that was kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks import arenas, compare, floors, host_load, machine, pins, starting
from benchmarks.results import OURS, Row, Run, dump, read
from benchmarks.table import floor_table

NOTES = """\
attach: the floor is one C call against a bare uvloop host, without checks or messages; open_many: 16 of them.
put: the floor is the kernel's part: memfd_create, size, seals, pwrite into fresh pages, seal, reopen, free.
get again: NumPy's own new view of the array. is_current: a load from a memoryview.
arena: NumPy's copy into an array that is there, or its new view; for many names a dict of copies; until a
sleeper has a value: a bare futex or eventfd, and plain shared memory.
host CPU: the bare host. import: cffi and msgpack alone. connect: the socket alone.
pin: ffi.from_buffer and ffi.release. iovec: os.preadv of the same buffers; then ffi.from_buffer for each.
check_pointers: a loop in Python that follows one pointer of each object and checks nothing."""


def rows(folder: str) -> Iterator[Row]:
    """Measure all rows."""
    first, other = machine.cpus()
    yield starting.import_client()
    os.sched_setaffinity(0, {first})
    yield starting.connect(folder, first)
    yield from floors.rows(folder, first, other)
    yield from arenas.rows(folder, first, other)
    for clients in (16, 1000):
        yield host_load.attach(folder, first, other, clients)
    yield from pins.rows(first)


def measure(console: Console, only: str = "") -> Run:
    """Measure, and say each row as it comes."""
    run = Run(machine.today(), machine.describe(), {OURS: machine.version("shmhost")})
    with tempfile.TemporaryDirectory(prefix="shm-bench-") as folder, console.status("measuring") as status:
        for row in rows(folder):
            run = run.with_rows(row)
            status.update(f"measured {row.title}")
    return run


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 if something is slower than it may be, and that was asked."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, help="keep the run in this file")
    parser.add_argument("--against", type=Path, help="compare with a kept run: exit code 1 if slower")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a row misses its aim")
    options = parser.parse_args(arguments)
    machine.end_on_sigterm()
    console = Console(width=max(130, Console().width))
    run = measure(console)
    console.print(floor_table(run), NOTES, sep="\n", highlight=False)
    if options.json:
        options.json.write_text(dump(run), "utf-8")
    slower = False
    if options.against:
        changes, lost = compare.compare(read(options.against), run)
        console.print(compare.report(changes, lost), highlight=False)
        slower = bool(lost) or any(change.is_flagged for change in changes)
    return int(slower or (options.check and any(row.is_missed for row in run.rows)))


if __name__ == "__main__":
    sys.exit(main())
