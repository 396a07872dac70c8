"""`make bench-fleet`: what a fleet costs on this machine, and writes the tables of docs/fleet.md.

Hosts are processes of this machine, joined over loopback: there is no network, and all share its CPUs. In
each round a value goes from `put` here to `open` on the other host, and the same bytes over plain TCP into
fresh memory of another process. Ray and Vineyard do the same, each in an environment of its own. For
recovery, hosts are in network namespaces. Figures that cannot be had here are left out, with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import shmclient
from benchmarks import fleet_hosts, fleet_recovery, fleet_steady, machine
from benchmarks.fleet_hosts import NAMES, PREFIX, WAIT_S, Pair, Sink, hosts
from benchmarks.fleet_page import section, write
from benchmarks.fleet_peers import RAY, VINEYARD, with_peer
from benchmarks.measure import Figure, summary
from benchmarks.processes import ROOT, cpu_us
from benchmarks.results import FLOOR, OURS, Row, Run, dump, read
from shmhost.testing.process import HostProcess
from shmprotocol.kernel.constants import GIB, KIB, MIB

PAGE = ROOT / "docs" / "fleet.md"
KEPT = ROOT / "docs" / "performance" / "fleet.json"
SIZES = {KIB: 30, MIB: 20, 64 * MIB: 3}  # samples in a round; the largest is added by what memory there is
ROUNDS = 3
SPREAD = 256 * MIB  # bytes that go to several importers
AIM = 1.3  # of a copy over TCP, for the largest


def value_of(size: int) -> bytes:
    """Return bytes of chance."""
    return (os.urandom(min(size, MIB)) * -(-size // MIB))[:size]


def trips(pair: Pair, sink: Sink, size: int, samples: int, rounds: int) -> Iterator[Row]:
    """Measure a size, and CPU where it is large."""
    value = value_of(size)
    ours: list[list[float]] = []
    puts: list[list[float]] = []
    floor: list[list[float]] = []
    cpu: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):  # the first one warms up
        machine.settle()
        before = [cpu_us(pid) for pid in pair.pids]
        times = [pair.trip_s(value) for _ in range(samples)]
        for column, pid, used in zip(cpu, pair.pids, before, strict=True):
            column.append((cpu_us(pid) - used) / 1e6 / samples / (size / GIB))
        ours.append([took * 1e6 for took, _ in times])
        puts.append([put * 1e6 for _, put in times])
        machine.settle()
        floor.append([sink.copy_s(value) * 1e6 for _ in range(samples)])
    title, aim = NAMES[size], AIM if size >= SPREAD else None
    figures = {OURS: summary(ours[1:]), FLOOR: summary(floor[1:])}
    yield Row(f"trip/{size}", title, figures=figures, aim_ratio=aim)
    if size >= SPREAD:
        yield Row(f"put/{size}", f"{title}, `put` alone", figures={OURS: summary(puts[1:])})
        for column, side in zip(cpu, ("exports", "imports"), strict=True):
            figure = summary([[used] for used in column[1:]])
            yield Row(f"cpu/{side}/{size}", f"CPU of the host that {side}", "s/GiB", {OURS: figure})


def spread(running: list[HostProcess], size: int, rounds: int) -> Figure:
    """Return the GiB a second that all importers together have: from `put` until the last has all."""
    value = value_of(size)
    rates = []
    first, *others = [shmclient.connect(each.socket_path) for each in running]
    try:
        for number_ in range(rounds + 1):
            name = f"{PREFIX}spread/{number_}"
            machine.settle()
            began_s = time.perf_counter()
            first.put(name, value).close()
            for each in others:
                each.open(name, wait=WAIT_S).close()
            rates.append([size * len(others) / GIB / (time.perf_counter() - began_s)])
            first.unlink(name)
            for each in others:
                while name in each:
                    time.sleep(0.001)
    finally:
        for each in (first, *others):
            each.close()
    return summary(rates[1:])


def spreads(folder: Path, counts: tuple[int, ...], size: int, rounds: int) -> Iterator[Row]:
    """Measure what several importers get of one exporter, and of each other."""
    for count in counts:
        room = folder / str(count)
        room.mkdir()
        with hosts(room, count + 1, 2 * size) as running:
            title = f"All together, {NAMES.get(size, size)} to {count} importer{'s' if count > 1 else ''}"
            figure = spread(running, size, rounds)
            yield Row(f"spread/{count}", title, "GiB/s", {OURS: figure}, more_is_better=True)


def largest() -> int:
    """Return the largest size that memory allows: a value, two copies, and that of TCP."""
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    free = next(int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable"))
    return GIB if free > 8 * GIB else 256 * MIB


def of_two(folder: Path, sizes: dict[int, int]) -> Iterator[Row]:
    """Measure what goes from one host to another: whole values, and such that change at a pace."""
    memory = max(4 * max(sizes), 256 * MIB)
    with (
        fleet_hosts.sink() as sink,
        hosts(folder, 2, memory, lag=0.0) as (first, second),
        contextlib.closing(Pair(first, second)) as pair,
    ):
        for size, samples in sizes.items():
            yield from trips(pair, sink, size, samples, ROUNDS)
        yield from fleet_steady.streams(pair)


def measure(sizes: dict[int, int], pythons: dict[str, str], say: Callable[[str], object]) -> Run:
    """Measure all; `pythons` have the others."""
    run = Run(machine.today(), machine.describe(), {OURS: machine.version("shmhost")})
    with tempfile.TemporaryDirectory(prefix="shm-fleet-") as name:
        folder = Path(name)
        ours = chain(of_two(folder, sizes), spreads(folder, (1, 2, 4), min(SPREAD, max(sizes)), 2))
        for row in ours:
            run = run.with_rows(row)
            say(row.title)
    recovery, reason = fleet_recovery.rows()
    say("recovery")
    run = run.with_rows(*recovery)
    if reason:
        run = replace(run, absent={"recovery": reason})
    for peer, python in pythons.items():
        say(peer)
        run = with_peer(run, peer, python, list(sizes))
    return run


def main(arguments: list[str] | None = None) -> int:
    """Measure, keep the run, and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet", description=__doc__)
    parser.add_argument("--json", type=Path, default=KEPT, help="keep the run in this file")
    parser.add_argument("--page", type=Path, default=PAGE, help="write the tables into this page")
    for peer in (RAY, VINEYARD):
        parser.add_argument(f"--{peer}", default=sys.executable, help="a Python that has it")
    parser.add_argument("--kept", action="store_true", help="only write the page, from the kept run")
    options = parser.parse_args(arguments)
    machine.end_on_sigterm()
    if not options.kept:
        sizes, pythons = {**SIZES, largest(): 1}, {RAY: options.ray, VINEYARD: options.vineyard}
        run = measure(sizes, pythons, lambda title: print(f"measured {title}", file=sys.stderr))
        options.json.write_text(dump(run), "utf-8")
    write(read(options.json), options.page)
    print(section(read(options.json)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
