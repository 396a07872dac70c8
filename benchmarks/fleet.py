"""`make bench-fleet`: what a fleet costs on this machine, and writes the tables of docs/fleet.md.

Hosts are processes of this machine, joined over loopback: there is no network, and all share its CPUs. In
each round a value goes from `put` here to `open` on the other host, and the same bytes over plain TCP into
fresh memory of another process. Ray runs in an environment of its own (`--ray PYTHON`), in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import shmclient
from benchmarks import fleet_hosts, machine
from benchmarks.fleet_hosts import PREFIX, Sink, hosts
from benchmarks.measure import Figure, summary
from benchmarks.page import generated, machine_line
from benchmarks.processes import ROOT, cpu_us
from benchmarks.results import FLOOR, OURS, Row, Run, dump, read
from benchmarks.table import number, readable, verdict
from shmhost.testing.process import HostProcess
from shmprotocol.kernel.constants import GIB, KIB, MIB

PAGE = ROOT / "docs" / "fleet.md"
KEPT = ROOT / "docs" / "performance" / "fleet.json"
RAY = "ray"
SIZES = {KIB: 30, MIB: 20, 64 * MIB: 3}  # samples in a round; the largest is added by what memory there is
ROUNDS = 3
LARGE_ROUNDS = 3
SPREAD = 256 * MIB  # bytes that go to several importers
NAMES = {KIB: "1 KiB", MIB: "1 MiB", 64 * MIB: "64 MiB", 256 * MIB: "256 MiB", GIB: "1 GiB"}
AIM = 1.3  # of a copy over TCP, for the largest
WAIT_S = 120.0


class Pair:
    """A client of a host that exports, and one of a host that imports."""

    def __init__(self, first: HostProcess, second: HostProcess) -> None:
        self.pids = first.pid, second.pid
        self.here = shmclient.connect(first.socket_path)
        self.there = shmclient.connect(second.socket_path)
        self._count = 0

    def trip_s(self, value: bytes) -> tuple[float, float]:
        """Return the seconds from `put` here to `open` there, and those of them that `put` took."""
        self._count += 1
        name = f"{PREFIX}{self._count}"
        began_s = time.perf_counter()
        self.here.put(name, value).close()
        put_s = time.perf_counter() - began_s
        self.there.open(name, wait=WAIT_S).close()
        took_s = time.perf_counter() - began_s
        self.here.unlink(name)
        while name in self.there:
            time.sleep(0.001)
        return took_s, put_s

    def close(self) -> None:
        """End both clients."""
        self.here.close()
        self.there.close()


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
            title = f"{NAMES.get(size, size)} to {count} importer{'s' if count > 1 else ''}"
            figure = spread(running, size, rounds)
            yield Row(f"spread/{count}", title, "GiB/s", {OURS: figure}, more_is_better=True)


def lag(pair: Pair, size: int, samples: int, pause_s: float) -> Row:
    """Measure from the put of an arena's value here until it is there."""
    taken: list[float] = []
    name = f"{PREFIX}lag/{size}"
    came = threading.Event()
    last = -1

    def watch() -> None:
        nonlocal last
        for value in pair.there.follow(f"{name}/value", wait=WAIT_S):
            now_ns = time.perf_counter_ns()
            index, sent_ns = (int.from_bytes(bytes(value[at : at + 8]), "little") for at in (0, 8))
            del value
            taken.append((now_ns - sent_ns) / 1000)
            came.set()
            if index >= samples:
                return

    follower = threading.Thread(target=watch, daemon=True)
    body = bytes(size - 16)
    with pair.here.arena(name, size=max(16 * size, 4 * MIB)) as arena:
        follower.start()
        index = 0
        while follower.is_alive():
            index += 1
            head = index.to_bytes(8, "little") + time.perf_counter_ns().to_bytes(8, "little")
            arena["value"] = head + body
            came.wait(pause_s)
            came.clear()
            time.sleep(pause_s)
        follower.join()
    return Row(f"lag/{size}", f"{NAMES[size]}, each {pause_s * 1000:g} ms", figures={OURS: summary([taken])})


def ray_rows(python: str, sizes: list[int]) -> tuple[dict[int, Figure], str, str]:
    """Return what Ray takes by size, its version, and why there is nothing."""
    script = str(ROOT / "benchmarks" / "fleet_ray.py")
    command = [python, script, *map(str, sizes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=tempfile.gettempdir())
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, "", str(error)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {}, "", (done.stderr.strip().splitlines() or ["it has said nothing"])[-1]
    answer = json.loads(lines[-1])
    return {int(size): summary(rounds) for size, rounds in answer["us"].items()}, answer["version"], ""


def largest() -> int:
    """Return the largest size that memory allows: a value, two copies, and that of TCP."""
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    free = next(int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable"))
    return GIB if free > 8 * GIB else 256 * MIB


def measure(sizes: dict[int, int], say: Callable[[str], object], python: str) -> Run:
    """Measure all."""
    run = Run(machine.today(), machine.describe(), {OURS: machine.version("shmhost")})
    top = max(sizes)
    with tempfile.TemporaryDirectory(prefix="shm-fleet-") as name, fleet_hosts.sink() as sink:
        folder = Path(name)
        with hosts(folder, 2, max(4 * top, 256 * MIB), lag=0.0) as (first, second):
            pair = Pair(first, second)
            try:
                for size, samples in sizes.items():
                    rounds = LARGE_ROUNDS if size >= SPREAD else ROUNDS
                    for row in trips(pair, sink, size, samples, rounds):
                        run = run.with_rows(row)
                        say(row.title)
                for size, pause_s in ((KIB, 0.01), (MIB, 0.03)):
                    run = run.with_rows(lag(pair, size, 200, pause_s))
                    say("the lag of an arena's value")
            finally:
                pair.close()
        for row in spreads(folder, (1, 2, 4), min(SPREAD, top), 2):
            run = run.with_rows(row)
            say(row.title)
    return with_ray(run, python, list(sizes))


def with_ray(run: Run, python: str, sizes: list[int]) -> Run:
    """Add what Ray takes."""
    figures, version, reason = ray_rows(python, sizes)
    rows = tuple(
        Row(row.key, row.title, row.unit, {**row.figures, RAY: figures[size]}, row.notes, row.aim_ratio)
        if row.key == f"trip/{size}" and size in figures
        else row
        for row in run.rows
        for size in [int(row.key.rpartition("/")[2])]
    )
    versions = {**run.versions, RAY: version} if version else run.versions
    return Run(run.date, run.machine, versions, {RAY: reason} if reason else {}, rows)


def section(run: Run) -> str:
    """Write the tables of the page."""
    trips_ = [readable(row) for row in run.rows if row.key.startswith("trip/")]
    lines = [machine_line(run), "", "| `put` here to `open` there | ours | plain TCP | ratio | Ray |"]
    lines += ["|---|--:|--:|--:|--:|"]
    for row in trips_:
        cells = [_cell(row, road) for road in (OURS, FLOOR)]
        ratio = (
            f"{row.ratio() or 0:.2f} {f'(aim {row.aim_ratio:g}: {verdict(row)})' if row.aim_ratio else ''}"
        )
        lines.append(f"| {row.title} | {cells[0]} | {cells[1]} | {ratio.strip()} | {_cell(row, RAY)} |")
    lines += ["", "| | median | p99 |", "|---|--:|--:|"]
    for row in map(readable, run.rows):
        kind = row.key.partition("/")[0]
        if kind != "trip":
            figure = row.figures[OURS]
            before = {"lag": "Lag of an arena's value, ", "spread": "All together, "}.get(kind, "")
            late = f"{number(figure.p99)} {row.unit}" if kind == "lag" else ""
            lines.append(f"| {before}{row.title} | {number(figure.p50)} {row.unit} | {late} |")
    lines += ["", *[f"{name.title()} was not measured: {reason}." for name, reason in run.absent.items()]]
    if RAY in run.versions:
        lines.append(f"Ray {run.versions[RAY]}: `ray.put` on one node, `ray.get` by an actor of another.")
    return "\n".join(lines).rstrip()


def _cell(row: Row, road: str) -> str:
    return f"{number(row.figures[road].p50)} {row.unit}" if road in row.figures else ""


def write(run: Run, page: Path) -> None:
    """Write the generated part of the page."""
    page.write_text(generated("fleet", section(run), page.read_text("utf-8")), "utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Measure, keep the run, and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet", description=__doc__)
    parser.add_argument("--json", type=Path, default=KEPT, help="keep the run in this file")
    parser.add_argument("--page", type=Path, default=PAGE, help="write the tables into this page")
    parser.add_argument("--ray", default=sys.executable, help="a Python that has Ray")
    parser.add_argument("--kept", action="store_true", help="only write the page, from the kept run")
    options = parser.parse_args(arguments)
    machine.end_on_sigterm()
    if not options.kept:
        sizes = {**SIZES, largest(): 1}
        run = measure(sizes, lambda title: print(f"measured {title}", file=sys.stderr), options.ray)
        options.json.write_text(dump(run), "utf-8")
    write(read(options.json), options.page)
    print(section(read(options.json)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
