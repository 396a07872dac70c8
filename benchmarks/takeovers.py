"""Takeovers under load: hosts take each other's place again and again, while clients read, put and watch.

    python -m benchmarks.takeovers [COUNT] [--fleet] [--json FILE]

With --fleet they are two hosts of a fleet, taken over in turn: one that exports, with clients that put and
read, and one that imports, whose clients read, watch and follow copies, which must never go, nor grow older.

Each client counts its requests, and what failed or was lost. The pause is what the hosts say: from the moment
when one stops reading until the next one reads. The longest request is what a client saw, on a machine that
starts Python at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import uvloop  # noqa: F401 - loaded before the fork

import shmclient
import shmhost.cli
from benchmarks.fleet_hosts import WINDOW, free_ports, write_plan

SMALL, LARGE = 100, 50_000  # bytes of a value: in its request, and in a spare
NAMES = 8
ARENA = 4 << 20  # bytes: 80 values
WAIT_S = 30.0


class Tally:
    """The counts of one client: requests, failures, lost and repeated events, the longest request."""

    def __init__(self) -> None:
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.lost = 0
        self.repeated = 0
        self.longest_s = 0.0
        self.is_over = threading.Event()

    @contextlib.contextmanager
    def request(self, count: int = 1) -> Iterator[None]:
        """Count what the block asks for, and how long that takes."""
        began_s = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.failures[f"{type(error).__name__}: {error}"] += 1
        self.requests += count
        self.longest_s = max(self.longest_s, time.perf_counter() - began_s)

    def follows(self, last: int | None, number: int) -> None:
        """Count what is missing between two numbers that should follow each other, or comes twice."""
        if last is not None:
            self.lost += max(0, number - last - 1)
            self.repeated += number <= last


def read(path: str, tally: Tally) -> None:
    """Open values that are replaced all the time, and look at them; those that stay, by the board alone."""
    with shmclient.connect(path) as shm:
        stays = shm.open("stays", wait=WAIT_S)
        last: Counter[str] = Counter()
        while not tally.is_over.is_set():
            for number in range(NAMES):
                name = f"puts/{number}"
                with tally.request(), shm.open(name, wait=WAIT_S) as region:
                    data = bytes(region.data)
                    count = int(data[:20])
                    if data != payload(count, len(data)) or count < last[name]:
                        tally.failures["a wrong or older value"] += 1
                    last[name] = count
            with tally.request():
                if not stays.is_current() or bytes(shm.get("stays")) != b"stays":
                    tally.failures["a value that stays is not current"] += 1


def put(path: str, tally: Tally, pause_s: float = 0) -> None:
    """Replace values, small ones and large ones in turn."""
    with shmclient.connect(path) as shm:
        count = 0
        while not tally.is_over.is_set():
            count += 1
            size = LARGE if count % 5 == 0 else SMALL
            with tally.request():
                shm.put(f"puts/{count % NAMES}", payload(count, size)).close()
            time.sleep(pause_s)


def watch(path: str, tally: Tally, *, is_copy: bool = False) -> None:
    """Watch all that is put: each generation must come once, in its order; of copies some may be left out."""
    with shmclient.connect(path) as shm, shm.watch("puts/") as changes:
        threading.Thread(target=close_at_end, args=(tally, changes), daemon=True).start()
        last: dict[str, int] = {}
        for change in changes:
            tally.requests += 1
            if change.kind != "published":
                tally.failures[f"the event {change.kind}"] += 1
            before = last.get(change.info.name)
            tally.follows(before, change.info.generation)
            if is_copy and before is not None:
                tally.lost -= max(0, change.info.generation - before - 1)
            last[change.info.name] = change.info.generation


def check_growth(values: Any, tally: Tally) -> None:
    """Count the values of an iterator until all is over, and those that are not newer than the one before."""
    threading.Thread(target=close_at_end, args=(tally, values), daemon=True).start()
    last = -1
    for value in values:
        tally.requests += 1
        count = int(bytes(value[:20]))
        tally.repeated += count <= last
        last = count


def follow(path: str, tally: Tally) -> None:
    """Follow a name by the board: values grow, and none comes twice."""
    with shmclient.connect(path) as shm, shm.follow("puts/0") as values:
        check_growth(values, tally)


def connect(path: str, tally: Tally) -> None:
    """Connect, ask, and go."""
    while not tally.is_over.is_set():
        with tally.request(2), shmclient.connect(path) as shm:
            if bytes(shm.get("stays")) != b"stays":
                tally.failures["a wrong value"] += 1


def own(path: str, tally: Tally) -> None:
    """Write values of an arena that is full soon: what nobody uses must be used again, and nothing else."""
    with (
        shmclient.connect(path) as shm,
        shm.arena("arena", size=ARENA, names=2 * NAMES, replace=True) as arena,
    ):
        count = 0
        while not tally.is_over.is_set():
            count += 1
            with tally.request():
                arena[f"x{count % NAMES}"] = payload(count, LARGE)
            time.sleep(0.0002)  # else it takes a processor, and copies are all that it does
        time.sleep(1)  # the readers end first


def look(path: str, tally: Tally) -> None:
    """Read values of the arena, in new clients now and then, and hold some for a while."""
    last: Counter[str] = Counter()
    while not tally.is_over.is_set():
        with shmclient.connect(path) as shm:
            last_ones: list[tuple[int, Any]] = []
            for number in range(40 * NAMES):
                if tally.is_over.is_set():
                    break
                name = f"arena/x{number % NAMES}"
                with tally.request():
                    value = shm.get(name, wait=WAIT_S)
                    count = int(bytes(value[:20]))
                    if count < last[name]:
                        tally.failures["an older value of the arena"] += 1
                    last[name] = count
                    last_ones = [*last_ones[-NAMES:], (count, value)]
                    if any(bytes(each) != payload(number, LARGE) for number, each in last_ones):
                        tally.failures["a value that is held has changed"] += 1
            last_ones.clear()
            value = None


def follow_arena(path: str, tally: Tally) -> None:
    """Follow a name of the arena: values grow, and none comes twice."""
    with shmclient.connect(path) as shm, shm.follow("arena/x0") as values:
        shm.get("arena/x0", wait=WAIT_S)
        check_growth(values, tally)


WORKERS: dict[str, Callable[[str, Tally], None]] = {
    "read": read,
    "put": put,
    "watch": watch,
    "follow": follow,
    "connect": connect,
    "own": own,
    "look": look,
    "follow_arena": follow_arena,
}


def read_copies(path: str, tally: Tally) -> None:
    """Read copies, of regions and of values of the arena: each must be there and whole, and never older."""
    last: Counter[str] = Counter()
    with shmclient.connect(path) as shm:
        while not tally.is_over.is_set():
            for number in range(NAMES):
                for name in (f"puts/{number}", f"arena/x{number}"):
                    with tally.request():
                        data = bytes(shm.get(name, wait=None if last[name] else WAIT_S))
                        count = int(data[:20])
                        if data != payload(count, len(data)) or count < last[name]:
                            tally.failures["a wrong or older copy"] += 1
                        last[name] = count
            time.sleep(0.001)


# Of a fleet: the exporter's, which hashes and announces each value, and the importer's.
EXPORTS: dict[str, Callable[[str, Tally], None]] = {
    "put": functools.partial(put, pause_s=0.005),
    "read": read,
    "own": own,
    "connect": connect,
}
COPIES: dict[str, Callable[[str, Tally], None]] = {
    "read_copies": read_copies,
    "watch_copies": functools.partial(watch, is_copy=True),
    "follow_copy": follow,
}


def payload(count: int, size: int) -> bytes:
    """Return the value of a count: its digits, and a byte of it throughout."""
    return b"%020d" % count + bytes((count % 256,)) * (size - 20)


def close_at_end(tally: Tally, stream: Any) -> None:
    """End an iterator when all is over."""
    tally.is_over.wait()
    time.sleep(0.5)  # for what was put last
    stream.close()


def end_with(parent: int, tally: Tally) -> None:
    """End all when the process that started this one has ended."""
    while os.getppid() == parent and not tally.is_over.wait(1):
        pass
    tally.is_over.set()


def work(role: str, path: str, kind: str) -> None:
    """Be a client until SIGTERM; print a line when that is heard, and at last what it counted."""
    tally = Tally()
    signal.signal(signal.SIGTERM, lambda *_: tally.is_over.set())
    print(flush=True)
    threading.Thread(target=end_with, args=(os.getppid(), tally), daemon=True).start()
    try:
        {"alone": WORKERS, "exports": EXPORTS, "copies": COPIES}[role][kind](path, tally)
    except Exception as error:
        tally.failures[f"ended: {type(error).__name__}: {error}"] += 1
    figures = (tally.requests, dict(tally.failures), tally.lost, tally.repeated, tally.longest_s)
    print(json.dumps(figures), flush=True)


class Hosts:
    """A host, and its successors: forks of a process that has loaded all, as their start is not measured."""

    def __init__(self, path: str, *options: str) -> None:
        self.path = path
        self._options = options
        self.pauses_ms: list[float] = []
        self._log = f"{path}.log"
        ours, theirs = socket.socketpair()
        self._nursery = os.fork()
        if self._nursery == 0:
            ours.close()
            bear(theirs, self._log)
        theirs.close()
        self._commands = ours
        self._start()

    def take_over(self) -> None:
        """Start the next one, and return when the one before has ended."""
        log = self._start("--takeover")
        match = re.search(r"waited ([\d.]+) ms", log)
        assert match is not None, log
        self.pauses_ms.append(float(match[1]))

    def _start(self, *options: str) -> str:
        """Start a host; return what it and the one before have logged until it listens."""
        open(self._log, "w", encoding="utf-8").close()
        command = ["shmhost", "serve", "--socket", self.path, *self._options, *options]
        self._commands.sendall(json.dumps(command).encode() + b"\n")
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            with open(self._log, encoding="utf-8") as file:
                log = file.read()
            if "listening" in log and ("handed over" in log or not options):
                return log
            time.sleep(0.001)
        raise RuntimeError(log)

    def close(self) -> None:
        """End the last one, and the process that bore it."""
        self._commands.close()
        os.waitpid(self._nursery, 0)


def bear(commands: socket.socket, log: str) -> NoReturn:
    """Fork a host for each line that comes; end the last one at the end."""
    child = 0
    for line in commands.makefile("r"):
        before, child = child, os.fork()
        if child == 0:
            commands.close()
            output = os.open(log, os.O_WRONLY | os.O_APPEND)
            os.dup2(output, 2)
            sys.argv = json.loads(line)
            shmhost.cli.main()
            os._exit(0)
        if before:
            os.waitpid(before, 0)
    if child:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
    os._exit(0)


def run(count: int, *, is_fleet: bool) -> dict[str, Any]:
    """Carry out so many takeovers under load; return the figures."""
    with tempfile.TemporaryDirectory(prefix="shm-") as folder, contextlib.ExitStack() as stack:
        started = started_fleet(folder) if is_fleet else {"alone": Hosts(os.path.join(folder, "h"))}
        clients: dict[str, subprocess.Popen[str]] = {}
        kinds = {"alone": WORKERS, "exports": EXPORTS, "copies": COPIES}
        for role, hosts in started.items():
            shm = stack.enter_context(shmclient.connect(hosts.path))
            stack.enter_context(shm.put("stays", b"stays"))
            if role != "copies":
                for number in range(NAMES):
                    shm.put(f"puts/{number}", payload(0, SMALL)).close()
            command = [sys.executable, "-m", "benchmarks.takeovers", "--client", role, hosts.path]
            for kind in kinds[role]:
                clients[kind] = subprocess.Popen([*command, kind], stdout=subprocess.PIPE, text=True)
        for client in clients.values():
            assert client.stdout is not None
            client.stdout.readline()
        time.sleep(1)
        for number in range(count):
            list(started.values())[number % len(started)].take_over()
            if sys.stderr.isatty() or number % 100 == 99:
                print(f"{number + 1} takeovers", file=sys.stderr)
        if is_fleet:
            await_last(started)
        figures = {kind: ended(client) for kind, client in clients.items()}
        stack.close()
        for hosts in reversed(started.values()):  # a later one has a copy of the socket to an earlier one
            hosts.close()
    pauses_ms = [pause_ms for hosts in started.values() for pause_ms in hosts.pauses_ms]
    return {"takeovers": count, "pauses_ms": pauses_ms, "clients": figures}


def started_fleet(folder: str) -> dict[str, Hosts]:
    """Start a host that exports and one that imports."""
    ports = free_ports(2)
    started: dict[str, Hosts] = {}
    for number, (role, key) in enumerate((("exports", "export"), ("copies", "import"))):
        keys = {"fleet": "takeovers", key: ["puts/", "arena/"]}
        plan = write_plan(Path(folder), role, ports[number], ports[:number], **keys)
        window = "{:#x}:{}".format(*WINDOW)
        started[role] = Hosts(os.path.join(folder, role), "--fleet", plan, "--window", window)
    return started


def await_last(started: dict[str, Hosts]) -> None:
    """Put a last value at the exporter, and return when it is at the importer."""
    with (
        shmclient.connect(started["exports"].path) as shm,
        shmclient.connect(started["copies"].path) as other,
    ):
        shm.put("puts/last", payload(0, SMALL)).close()
        other.open("puts/last", wait=WAIT_S).close()


def ended(client: subprocess.Popen[str]) -> list[Any]:
    """End a client; return what it counted."""
    client.terminate()
    said, _ = client.communicate(timeout=4 * WAIT_S)
    figures: list[Any] = json.loads(said)
    return figures


def report(figures: dict[str, Any]) -> bool:
    """Print the figures; return whether nothing failed and nothing was lost."""
    clients = figures["clients"]
    requests, lost = sum(each[0] for each in clients.values()), sum(each[2] for each in clients.values())
    repeated = sum(each[3] for each in clients.values())
    failures = Counter[str]()
    for each in clients.values():
        failures.update(each[1])
    pauses = sorted(figures["pauses_ms"])
    percentiles = [pauses[min(len(pauses) - 1, int(len(pauses) * part))] for part in (0.5, 0.99, 1)]
    print(f"{figures['takeovers']} takeovers; {requests:,} requests and events by {len(clients)} clients")
    print(f"failed: {failures.total()}; events lost: {lost}; repeated: {repeated}")
    print("pause, ms: p50 {:.1f}, p99 {:.1f}, longest {:.1f}".format(*percentiles))
    print(f"mean of the pauses: {statistics.fmean(pauses):.1f} ms")
    for kind, each in clients.items():
        print(f"{kind:18} {each[0]:>10,}  longest request {each[4] * 1e3:.0f} ms")
    for text, number in failures.most_common(10):
        print(f"{number} x {text}")
    return not (failures.total() or lost or repeated)


def main() -> None:
    """Run as described above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("count", nargs="?", type=int, default=1000)
    parser.add_argument("--fleet", action="store_true", help="take over two hosts of a fleet in turn")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        work(*options.client)
        return
    figures = run(options.count, is_fleet=options.fleet)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file)
    sys.exit(0 if report(figures) else 1)


if __name__ == "__main__":
    main()
