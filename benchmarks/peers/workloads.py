"""The workloads: what the runner asks the workers of each peer to do. They know no peer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.base import Unsupported
from benchmarks.peers.team import Team, Worker, memory_kib

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
READERS = 8


@dataclass(frozen=True)
class Scale:
    """How much is measured: the smoke test takes tiny values, a run the defaults."""

    rounds: int = 10
    budget_s: float = 0.06  # of a peer in a round
    samples: int = 300  # at most, of a peer in a round
    largest: int = GIB
    objects: int = 10_000
    clients: tuple[int, ...] = (1, 16, 128, 1000)
    attaches: int = 2000
    notices: int = 60
    turns: int = 40


@dataclass(frozen=True)
class Workload:
    """A row: `prepare` runs once for a peer, `measure` in each round and gives samples, `finish` at the end.

    `each_round`: prepare and finish in each round, so that only one peer at a time has large values.
    """

    key: str
    title: str
    prepare: Callable[[Team], Any]
    measure: Callable[[Team, Any], list[float]]
    finish: Callable[[Team, Any], None]
    unit: str = "us"
    rounds: int = 0  # at most; 0: those of the scale
    each_round: bool = False
    more_is_better: bool = False


def text(size: int) -> str:
    """Write a size in the largest unit that fits."""
    for unit, bytes_of in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= bytes_of:
            return f"{size // bytes_of} {unit}"
    return f"{size} B"


def workloads(scale: Scale) -> list[Workload]:
    """Return all workloads, in the order of the tables."""
    puts = [size for size in (KIB, MIB, 64 * MIB, 512 * MIB) if size <= scale.largest]
    attaches = [size for size in (MIB, GIB) if size <= scale.largest]
    return [
        server_memory(scale),
        lease_memory(scale),
        spread_memory(scale),
        *(attach(scale, size) for size in attaches),
        attach_under_load(scale),
        again(scale),
        *(put(scale, size, new=True) for size in puts),
        *(put(scale, size, new=False) for size in puts),
        notice(scale, "watch", "a thread"),
        notice(scale, "watch_loop", "an event loop"),
        many_put(scale),
        many_get(scale),
        map_put(scale),
        map_get(scale),
        spread_rate(scale),
        *(server_cpu(scale, clients) for clients in scale.clients),
    ]


def _nothing(_: Team) -> None:
    """Prepare nothing."""


def _done(_: Team, __: Any) -> None:
    """Leave nothing to finish."""


def _published(name: str, size: int) -> Callable[[Team], str]:
    return lambda team: str(team.owner.ask("put", name=name, size=size))


def _remove(name: str) -> Callable[[Team, Any], None]:
    return lambda team, _: team.owner.ask("remove", names=[name])


def _limits(scale: Scale, size: int) -> dict[str, Any]:
    """Bound the samples of a round, for large values by the memory that they take."""
    return {"budget_s": scale.budget_s, "limit": max(1, min(scale.samples, 64 * MIB // size))}


def attach(scale: Scale, size: int) -> Workload:
    """Attach a value by its key, read a byte, and let go, in another process than its owner."""
    limits = {"budget_s": scale.budget_s, "limit": scale.samples}
    return Workload(
        f"attach/{size}",
        f"attach + detach, {text(size)}",
        _published("attach", size),
        lambda team, key: list(team.user.ask("time_attach", key=key, **limits)),
        _remove("attach"),
        rounds=2 if size > 64 * MIB else 0,
        each_round=size > 64 * MIB,
    )


def attach_under_load(scale: Scale) -> Workload:
    """Attach while the owner, on the other CPU, replaces another value of 1 MiB without a pause."""

    def prepare(team: Team) -> tuple[str, Worker]:
        noise, _ = team.worker(team.cpus[1])
        noise.ask("put", name="noise", size=MIB)
        return str(team.owner.ask("put", name="attach", size=MIB)), noise

    def measure(team: Team, prepared: tuple[str, Worker]) -> list[float]:
        key, noise = prepared
        noise.send("noise", name="noise", size=MIB)
        time.sleep(0.02)
        times = team.user.ask("time_attach", key=key, budget_s=4 * scale.budget_s, limit=scale.samples)
        noise.send("remove", names=[])  # ends the noise
        noise.answer()
        noise.answer()
        return list(times)

    def finish(team: Team, prepared: tuple[str, Worker]) -> None:
        prepared[1].close()
        team.owner.ask("remove", names=["attach"])

    title = "attach + detach, 1 MiB, while another client publishes"
    return Workload("attach/loaded", title, prepare, measure, finish)


def again(scale: Scale) -> Workload:
    """Get a value of 1 MiB that the process has already, and that is current."""

    def prepare(team: Team) -> str:
        return _held(team, "again", MIB)

    def measure(team: Team, key: str) -> list[float]:
        return list(team.user.ask("time_again", key=key, budget_s=scale.budget_s, limit=scale.samples))

    return Workload("again", "get again, 1 MiB", prepare, measure, _remove("again"))


def _held(team: Team, name: str, size: int) -> str:
    """Publish a value, hold it in the user, and return its key. Some peers deliver only what comes later."""
    team.user.ask("subscribe", key=team.owner.ask("put", name=name, size=size))
    key = str(team.owner.ask("replace", name=name, size=size))
    team.user.ask("hold", key=key)
    return key


def put(scale: Scale, size: int, *, new: bool) -> Workload:
    """Publish values: under new names, or newer ones of a name, which includes the end of the older one."""
    limits = _limits(scale, size)
    step, name = ("time_put_new", "new") if new else ("time_replace", "replaced")
    return Workload(
        f"{name}/{size}",
        f"put, {text(size)}, {'a new name' if new else 'replacing'}",
        _nothing if new else _published(name, size),
        lambda team, _: list(team.owner.ask(step, name=name, size=size, **limits)),
        _done if new else _remove(name),
        rounds=3 if size >= 64 * MIB else 0,
        each_round=size >= 64 * MIB,
    )


def notice(scale: Scale, step: str, waiter: str) -> Workload:
    """Replace a value of 1 KiB: the time until another process, asleep before, has the new one."""

    def measure(team: Team, _: Any) -> list[float]:
        team.user.send(step, name="notice")
        team.user.answer("ready")
        team.owner.ask("announce", name="notice", size=KIB, count=scale.notices, pause_s=0.002)
        ages = list(team.user.answer())
        if not ages:
            raise Unsupported("no notice came")
        return ages

    title = f"put of 1 KiB until {waiter} of another process has it"
    return Workload(
        f"notice/{step}",
        title,
        _published("notice", KIB),
        measure,
        _remove("notice"),
        rounds=min(5, scale.rounds),
    )


def many_put(scale: Scale) -> Workload:
    """Publish ten thousand names of 1 KiB; the time of each."""

    def measure(team: Team, _: Any) -> list[float]:
        result = team.owner.ask("put_many", prefix="many", count=scale.objects, size=KIB)
        _remove_many(team, "many", scale.objects)
        return [result["us"]]

    title = f"{scale.objects:,} objects of 1 KiB: put, each"
    return Workload("many/put", title, _nothing, measure, _done, rounds=2)


def many_get(scale: Scale) -> Workload:
    """Attach ten thousand names of 1 KiB and let them go; the time of each."""

    def prepare(team: Team) -> list[str]:
        return list(team.owner.ask("put_many", prefix="many", count=scale.objects, size=KIB)["keys"])

    def measure(team: Team, keys: list[str]) -> list[float]:
        return [team.user.ask("get_many", keys=keys)]

    title = f"{scale.objects:,} objects of 1 KiB: get, each"
    return Workload(
        "many/get",
        title,
        prepare,
        measure,
        lambda team, _: _remove_many(team, "many", scale.objects),
        rounds=3,
    )


def _remove_many(team: Team, prefix: str, count: int) -> None:
    team.owner.ask("remove_many", prefix=prefix, count=count)


def map_put(scale: Scale) -> Workload:
    """Publish one value of ten thousand parts of 1 KiB; the time of each part."""

    def measure(team: Team, _: Any) -> list[float]:
        took = team.owner.ask("put_map", name="map", count=scale.objects, size=KIB)["us"]
        team.owner.ask("remove", names=["map"])
        return [took]

    title = f"{scale.objects:,} objects of 1 KiB as one value: put, each"
    return Workload("map/put", title, _nothing, measure, _done, rounds=3)


def map_get(scale: Scale) -> Workload:
    """Get one value of ten thousand parts, and look up each part."""

    def prepare(team: Team) -> str:
        return str(team.owner.ask("put_map", name="map", count=scale.objects, size=KIB)["key"])

    def measure(team: Team, key: str) -> list[float]:
        return [team.user.ask("get_map", key=key, count=scale.objects)]

    title = f"{scale.objects:,} objects of 1 KiB as one value: get, each"
    return Workload("map/get", title, prepare, measure, _remove("map"), rounds=3)


def spread_rate(scale: Scale) -> Workload:
    """One writer replaces 1 MiB, eight readers read every page; generations a second that all have read."""

    def prepare(team: Team) -> list[Worker]:
        team.owner.ask("put", name="spread", size=MIB)
        return [reader for reader, _ in team.workers([team.cpus[index % 2] for index in range(READERS)])]

    def measure(team: Team, readers: list[Worker]) -> list[float]:
        times = _spread(team, readers, "spread", MIB, scale.turns)
        return [1e6 / took for took in times]

    title = f"one writer, {READERS} readers: generations of 1 MiB a second that all have read"
    return Workload(
        "spread/rate",
        title,
        prepare,
        measure,
        _end_readers,
        unit="1/s",
        rounds=3,
        more_is_better=True,
    )


def _spread(team: Team, readers: list[Worker], name: str, size: int, turns: int) -> list[float]:
    go = [team.place.path(f"{team.peer.key}-{index}.go") for index in range(len(readers))]
    back = team.place.path(f"{team.peer.key}.back")
    for path in (*go, back):
        os.mkfifo(path)
    try:
        for reader, path in zip(readers, go, strict=True):
            reader.ask("subscribe", key=name)
            reader.send("read_along", go=path, back=back)
            reader.answer("ready")
        times = list(team.owner.ask("spread", name=name, size=size, count=turns, go=go, back=back))
        for reader in readers:
            reader.answer()
    finally:
        for path in (*go, back):
            os.unlink(path)
    return times


def _end_readers(team: Team, readers: list[Worker]) -> None:
    for reader in readers:
        reader.close()
    team.owner.ask("remove", names=["spread"])


def spread_memory(scale: Scale) -> Workload:
    """The memory (PSS) that one value takes in the server, the owner and eight readers, all pages read."""
    size = min(64 * MIB, scale.largest)

    def prepare(team: Team) -> list[Worker]:
        return [reader for reader, _ in team.workers([team.cpus[index % 2] for index in range(READERS)])]

    def measure(team: Team, readers: list[Worker]) -> list[float]:
        pids = [*team.pids, *(reader.pid for reader in readers)]
        team.owner.ask("warm", size=size)
        before = memory_kib(pids, "Pss")
        team.owner.ask("put", name="spread", size=size)
        _spread(team, readers, "spread", size, 1)
        return [(memory_kib(pids, "Pss") - before) / 1024]

    title = f"one writer, {READERS} readers: memory for a value of {text(size)}"
    return Workload("spread/pss", title, prepare, measure, _end_readers, unit="MiB", rounds=1)


def server_cpu(scale: Scale, clients: int) -> Workload:
    """The CPU time of the server for an attach of 1 KiB, by many clients in turn."""

    def prepare(team: Team) -> str:
        if not team.servers:
            raise Unsupported("has no server")
        team.user.ask("connect_more", count=clients)
        return str(team.owner.ask("put", name="load", size=KIB))

    def measure(team: Team, key: str) -> list[float]:
        return [team.user.ask("cost_of_attach", key=key, pids=team.servers, count=scale.attaches)]

    def finish(team: Team, _: str) -> None:
        team.user.ask("connect_more", count=0)
        team.owner.ask("remove", names=["load"])

    title = f"CPU of the server for an attach, {clients:,} client{'s' if clients > 1 else ''}"
    return Workload(f"server_cpu/{clients}", title, prepare, measure, finish, rounds=5)


def server_memory(scale: Scale) -> Workload:
    """Private memory of the server for each of many values of 64 bytes; it runs first, while none is free."""

    def measure(team: Team, _: Any) -> list[float]:
        if not team.servers:
            raise Unsupported("has no server")
        before = memory_kib(team.servers, "Anonymous")
        team.owner.ask("put_many", prefix="small", count=scale.objects // 2, size=64)
        return [(memory_kib(team.servers, "Anonymous") - before) * 1024 / (scale.objects // 2)]

    title = "memory of the server for each value of 64 bytes"
    return Workload("memory/value", title, _nothing, measure, _done, unit="B", rounds=1)


def lease_memory(scale: Scale) -> Workload:
    """Private memory of the server for each value that a client holds; the values are new ones."""

    def measure(team: Team, _: Any) -> list[float]:
        if not team.servers:
            raise Unsupported("has no server")
        keys = team.owner.ask("put_many", prefix="held", count=scale.objects // 2, size=64)["keys"]
        before = memory_kib(team.servers, "Anonymous")
        team.user.ask("hold_all", keys=keys)
        return [(memory_kib(team.servers, "Anonymous") - before) * 1024 / (scale.objects // 2)]

    def finish(team: Team, _: Any) -> None:
        for prefix in ("small", "held"):
            _remove_many(team, prefix, scale.objects // 2)

    title = "memory of the server for each value that a client holds"
    return Workload("memory/lease", title, _nothing, measure, finish, unit="B", rounds=1)
