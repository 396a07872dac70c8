"""Values that change at a steady pace: how late they are on the other host, and what one takes of the CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from benchmarks.fleet_hosts import NAMES, PREFIX, WAIT_S, Pair
from benchmarks.measure import Figure, summary
from benchmarks.processes import cpu_us
from benchmarks.results import OURS, Row
from shmprotocol.kernel.constants import KIB, MIB

PACES = {KIB: 100, MIB: 30}  # values a second
KINDS = {"region": "A region", "arena": "A value of an arena"}
STREAM_S = 4.0
REST_S = 2.0
Put = Callable[[bytes], object]


def streams(pair: Pair, seconds: float = STREAM_S) -> Iterator[Row]:
    """Measure each kind of value at its pace; then the hosts at rest."""
    for size, pace in PACES.items():
        for kind in KINDS:
            yield from stream(pair, kind, size, pace, seconds)
    before = [family_us(pid) for pid in pair.pids]
    time.sleep(REST_S)
    rates = [(family_us(pid) - used) / 1e3 / REST_S for pid, used in zip(pair.pids, before, strict=True)]
    yield Row("rest", "CPU of a host at rest", "ms/s", {OURS: summary([rates])})


def stream(pair: Pair, kind: str, size: int, pace: int, seconds: float) -> Iterator[Row]:
    """Replace a value at a pace while the other host follows it: the lag, and the CPU for each put."""
    name = f"{PREFIX}steady/{kind}/{size}"
    count = max(int(pace * seconds), 1)
    follower = Follower(pair, name if kind == "region" else f"{name}/value", count)
    arena = pair.here.arena(name, size=max(16 * size, 4 * MIB)) if kind == "arena" else nullcontext()
    with arena as values:

        def put(value: bytes) -> None:
            if values is None:
                pair.here.put(name, value).close()
            else:
                values["value"] = value

        put(stamped(0, size))  # work that is done only once is not measured
        follower.start()
        follower.came.wait(WAIT_S)
        follower.lags_us.clear()
        before = [family_us(pid) for pid in pair.pids]
        put_steadily(put, size, pace, count)
        follower.join(WAIT_S)
        if follower.is_alive():
            raise TimeoutError(f"the last of {count} values did not come in {WAIT_S:g} s")
        used = [(family_us(pid) - cpu) / count for pid, cpu in zip(pair.pids, before, strict=True)]
    title = f"{KINDS[kind]} of {NAMES[size]}, {pace} times a second"
    yield Row(f"lag/{kind}/{size}", title, figures={OURS: summary([follower.lags_us])})
    for side, cpu in zip(("exports", "imports"), used, strict=True):
        figure = Figure(cpu, cpu, cpu, cpu, count)
        yield Row(
            f"each/{side}/{kind}/{size}", f"{title}: CPU of the host that {side}", figures={OURS: figure}
        )


def put_steadily(put: Put, size: int, pace: int, count: int) -> None:
    """Put values by the clock, not by when the last one has come."""
    began_s = time.perf_counter()
    for number in range(1, count + 1):
        time.sleep(max(0.0, began_s + number / pace - time.perf_counter()))
        put(stamped(number, size))


def stamped(number: int, size: int) -> bytes:
    """Return a value with its number and the time."""
    return number.to_bytes(8, "little") + time.perf_counter_ns().to_bytes(8, "little") + bytes(size - 16)


class Follower(threading.Thread):
    """Follows a name on the other host, up to the value of a number; not each value is seen."""

    def __init__(self, pair: Pair, name: str, last: int) -> None:
        super().__init__(daemon=True)
        self.lags_us: list[float] = []
        self.came = threading.Event()
        self._pair = pair
        self._name = name
        self._last = last

    def run(self) -> None:
        """Note how late each value is."""
        for value in self._pair.there.follow(self._name, wait=WAIT_S):
            now_ns = time.perf_counter_ns()
            number, sent_ns = (int.from_bytes(bytes(value[at : at + 8]), "little") for at in (0, 8))
            del value
            self.lags_us.append((now_ns - sent_ns) / 1000)
            self.came.set()
            if number >= self._last:
                return


def family_us(pid: int) -> float:
    """Return the CPU time of a process and its children: that of a host copies values of arenas."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = {int(child) for task in tasks for child in (task / "children").read_text("ascii").split()}
    return cpu_us(pid) + sum(cpu_us(child) for child in children)
