"""`python -m benchmarks.sizing`: how long copies take in a fleet of many hosts; writes docs/sizing.md.

One host publishes a region that all others import. The simulation has the rules of `shmhost.fleet`: a host
takes chunks from up to eight hosts that have all of it, from the one with the fewest of its own under way;
a host sends a large region to two others at a time, and tells the rest to come again in half a second to one.
That a copy which takes long makes room for more hosts is left out: few do, on lines as fast as these.
`--check` runs real hosts on this machine, whose lines are as slow as `bandwidth` in their files makes them,
so that its CPUs are not what is measured, and keeps what they took beside the simulation of the same.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import shmclient
from benchmarks.fleet_hosts import PREFIX, hosts
from benchmarks.page import generated
from benchmarks.processes import ROOT
from benchmarks.table import number as shown
from shmhost.fleet.config import CHUNKS
from shmhost.fleet.transfers import BUSY_S, MAX_SOURCES, MAX_TRIED
from shmhost.fleet.turns import AT_ONCE, TURNS_FROM
from shmprotocol.kernel.constants import GIB, MIB

PAGE = ROOT / "docs" / "sizing.md"
CHECKED = ROOT / "docs" / "sizing.json"
GBIT = 1e9 / 8 * 0.94  # bytes a second, after the headers of frames of 1,500 bytes, of IP and of TCP
MESSAGE = 400  # bytes of an announcement of a name of 30 characters, with the headers of zenoh, TCP and IP
CARD = 300  # likewise: what each host tells each other once a second
RECORD = 1000  # bytes of memory that a host takes for a name that another has announced
HOSTS = (10, 100, 1000)
SIZES = {MIB: "1 MiB", 100 * MIB: "100 MiB", GIB: "1 GiB"}
CHECK_HOSTS, CHECK_SIZE, CHECK_LINE = (2, 3, 5), 64 * MIB, 16 * MIB
ARRIVES, WAKES = 0, 1


class Plan(NamedTuple):
    """A fleet, of which one host publishes a region that all others import.

    `line` is the bytes a second that a host sends, and as many that it receives; `chunks` are those of the
    simulation. `at_once` bounds the hosts that one sends to at a time.
    """

    hosts: int
    size: int
    line: float
    trip_s: float = 0.0005
    chunks: int = 64
    at_once: int = AT_ONCE


class Outcome(NamedTuple):
    """Seconds until half of the hosts, and until all have a copy; the most bytes that one host has sent."""

    half_s: float
    all_s: float
    most_sent: int


@dataclass(slots=True)
class Host:
    """The work of a host, and until when its line is busy with it."""

    missing: int
    under_way: int = 0
    sources: set[int] = field(default_factory=set)  # that it asks
    used: dict[int, int] = field(default_factory=dict)  # chunks under way by source
    proven: set[int] = field(default_factory=set)  # sources that have sent a chunk
    busy: dict[int, float] = field(default_factory=dict)  # sources, and when they are asked again
    serves: set[int] = field(default_factory=set)  # the hosts that it sends to
    sends_until_s: float = 0.0
    receives_until_s: float = 0.0
    sent: int = 0


class Simulation:
    """A run. A line carries one chunk after the other, in the order in which they were asked for."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._limit = plan.at_once if plan.size >= TURNS_FROM else plan.hosts
        self._chunks = plan.chunks if plan.size > MIB else 1
        self._chunk_s = plan.size / self._chunks / plan.line
        self._hosts = [Host(self._chunks if index else 0) for index in range(plan.hosts)]
        self._whole = [0]
        self._waiting: set[int] = set()  # hosts whose sources are busy
        self._events: list[tuple[float, int, int, int]] = []  # time, kind, who, the source of a chunk
        self._chance = random.Random(plan.hosts)

    def run(self) -> Outcome:
        """Run until all hosts have a copy."""
        times: list[float] = []
        for index in range(1, self._plan.hosts):  # an announcement; hashes are asked for beside the chunks
            heapq.heappush(self._events, (self._plan.trip_s, WAKES, index, 0))
        while len(times) < self._plan.hosts - 1:
            now_s, kind, sink, source = heapq.heappop(self._events)
            if kind == ARRIVES:
                self._arrive(sink, source)
            host = self._hosts[sink]
            if host.missing:
                self._ask(sink, now_s)
            elif kind == ARRIVES:
                times.append(now_s)
                self._finish(sink, now_s)
        most = max(host.sent for host in self._hosts)
        return Outcome(times[(len(times) - 1) // 2], times[-1], most * self._plan.size // self._chunks)

    def _ask(self, sink: int, now_s: float) -> None:
        """Ask for chunks, as far as the credit goes."""
        host = self._hosts[sink]
        self._refresh(host, now_s)
        while host.missing > host.under_way:
            source = self._source(host)
            if source is None:
                break
            serves = self._hosts[source].serves
            if sink not in serves and len(serves) >= self._limit:
                host.busy[source] = now_s + 2 * self._plan.trip_s + self._chance.uniform(*BUSY_S)
                host.sources.discard(source)
                self._refresh(host, now_s)
            else:
                self._send(source, sink, now_s)
        self._waiting.discard(sink)
        if not host.under_way:
            self._waiting.add(sink)
            heapq.heappush(self._events, (min(host.busy.values()), WAKES, sink, 0))

    def _refresh(self, host: Host, now_s: float) -> None:
        """Take sources, by chance, of those that are not known to be busy."""
        for source in [source for source, until_s in host.busy.items() if until_s <= now_s]:
            del host.busy[source]
        free = min(MAX_SOURCES - len(host.sources), MAX_TRIED - len(host.sources) - len(host.busy))
        if free > 0:
            for source in self._chance.sample(self._whole, min(MAX_TRIED, len(self._whole))):
                if free and source not in host.busy and source not in host.sources:
                    host.sources.add(source)
                    free -= 1

    def _source(self, host: Host) -> int | None:
        """Return the source with the fewest chunks of this host under way, if it may be asked for more."""
        best, fewest = None, CHUNKS
        for source in host.sources:
            used = host.used.get(source, 0)
            if used < fewest and (not used or source in host.proven or self._limit == self._plan.hosts):
                best, fewest = source, used
        return best

    def _send(self, source: int, sink: int, now_s: float) -> None:
        sender, receiver = self._hosts[source], self._hosts[sink]
        receiver.under_way += 1
        receiver.used[source] = receiver.used.get(source, 0) + 1
        sender.serves.add(sink)
        sender.sent += 1
        begins_s = max(now_s + self._plan.trip_s, sender.sends_until_s)
        sender.sends_until_s = begins_s + self._chunk_s
        ends_s = max(sender.sends_until_s + self._plan.trip_s, receiver.receives_until_s + self._chunk_s)
        receiver.receives_until_s = ends_s
        heapq.heappush(self._events, (ends_s, ARRIVES, sink, source))

    def _arrive(self, sink: int, source: int) -> None:
        host = self._hosts[sink]
        host.missing -= 1
        host.under_way -= 1
        host.used[source] -= 1
        host.proven.add(source)

    def _finish(self, sink: int, now_s: float) -> None:
        """A host has all: it is a source, and others have their turn. Those that wait hear of it."""
        for source in self._hosts[sink].proven:
            self._hosts[source].serves.discard(sink)
        self._whole.append(sink)
        if len(self._whole) <= MAX_TRIED:  # later they have tried enough already
            for index in self._waiting:
                heapq.heappush(self._events, (now_s + self._plan.trip_s, WAKES, index, 0))


def simulate(plan: Plan) -> Outcome:
    """Return how long a fleet takes."""
    return Simulation(plan).run()


def real_s(folder: Path, count: int, size: int, line: int) -> float:
    """Return the seconds that real hosts on this machine take, with lines of so many bytes a second."""
    with hosts(folder, count, 4 * size, bandwidth=str(line)) as running:
        clients = [shmclient.connect(host.socket_path) for host in running]
        name = f"{PREFIX}sizing"
        arrived = threading.Barrier(count)

        def wait(client: shmclient.Client) -> None:
            client.open(name, wait=120).close()
            arrived.wait(120)

        threads = [threading.Thread(target=wait, args=(client,)) for client in clients[1:]]
        clients[0].put(name, random.Random(1).randbytes(size)).close()
        began_s = time.perf_counter()
        for thread in threads:
            thread.start()
        arrived.wait(120)
        took_s = time.perf_counter() - began_s
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
    return took_s


def check(counts: tuple[int, ...], size: int, line: int) -> list[dict[str, Any]]:
    """Compare real hosts with the simulation of the same."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="shm-sizing-") as folder:
            took_s = real_s(Path(folder), count, size, line)
        reckoned_s = simulate(Plan(count, size, line, chunks=size // MIB)).all_s
        rows.append({"hosts": count, "size": size, "line": line, "real_s": took_s, "simulated_s": reckoned_s})
    return rows


def section(rows: list[dict[str, Any]], counts: tuple[int, ...] = HOSTS) -> str:
    """Write the tables of the page."""
    lines = ["Time until all hosts have a copy, by simulation, with lines of 10 Gbit/s:", ""]
    lines.append(f"| hosts | {' | '.join(SIZES.values())} | of 1 GiB, sent by one host at most |")
    lines.append("|--:" * (len(SIZES) + 2) + "|")
    for count in counts:
        outcomes = [simulate(Plan(count, size, 10 * GBIT)) for size in SIZES]
        cells = [_seconds(outcome.all_s) for outcome in outcomes]
        lines.append(f"| {count:,} | {' | '.join(cells)} | {outcomes[-1].most_sent / GIB:.1f} GiB |")
    one_line_s = (counts[-1] - 1) * GIB / (10 * GBIT)
    lines += [
        "",
        "With lines of 1 Gbit/s it takes at most ten times as long. If the first host sent to all that ask, "
        f"1 GiB would take {_seconds(one_line_s)} for {counts[-1]:,} hosts.",
    ]
    lines += ["", "Besides, each host has to do this, as reckoned:", ""]
    lines.append(
        "| hosts | cards, sent and received | a name that changes once a second, sent by its host "
        "| 1,000 names of each host, memory |"
    )
    lines.append("|--:|--:|--:|--:|")
    for count in counts:
        cards, news, memory = (each * (count - 1) / 1000 for each in (CARD, MESSAGE, RECORD))
        lines.append(f"| {count:,} | {cards:,.1f} kB/s | {news:,.1f} kB/s | {memory:,.1f} MB |")
    lines += ["", "The simulation beside real hosts on one machine, with `bandwidth` in their files:", ""]
    lines += ["| hosts | size | bandwidth | real | simulated |", "|--:|--:|--:|--:|--:|"]
    for row in rows:
        size, line = f"{row['size'] // MIB} MiB", f"{row['line'] // MIB} MiB/s"
        times = f"{_seconds(row['real_s'])} | {_seconds(row['simulated_s'])}"
        lines.append(f"| {row['hosts']} | {size} | {line} | {times} |")
    return "\n".join(lines)


def _seconds(value: float) -> str:
    if value >= 120:
        return f"{shown(value / 60)} min"
    return f"{shown(value)} s" if value >= 1 else f"{shown(value * 1000)} ms"


def main(arguments: list[str] | None = None) -> int:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.sizing", description=__doc__)
    parser.add_argument("--check", action="store_true", help="run real hosts too, half a minute")
    parser.add_argument("--page", type=Path, default=PAGE, help="write the tables into this page")
    options = parser.parse_args(arguments)
    if options.check:
        rows = check(CHECK_HOSTS, CHECK_SIZE, CHECK_LINE)
        CHECKED.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    text = section(json.loads(CHECKED.read_text("utf-8")))
    options.page.write_text(generated("sizing", text, options.page.read_text("utf-8")), "utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
