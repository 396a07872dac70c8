"""Workloads of many values, and of many readers."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.peers.team import Team, Worker, memory_kib
from benchmarks.peers.workload import KIB, MIB, Scale, Workload, done, nothing, remove, remove_many, text


def many_put(scale: Scale) -> Workload:
    """Publish ten thousand names of 1 KiB; the time of each."""

    def measure(team: Team, _: Any) -> list[float]:
        result = team.owner.ask("put_many", prefix="many", count=scale.objects, size=KIB)
        remove_many(team, "many", scale.objects)
        return [result["us"]]

    title = f"{scale.objects:,} objects of 1 KiB: put, each"
    return Workload("many/put", title, nothing, measure, done, rounds=2)


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
        lambda team, _: remove_many(team, "many", scale.objects),
        rounds=3,
    )


def map_put(scale: Scale) -> Workload:
    """Publish one value of ten thousand parts of 1 KiB; the time of each part."""

    def measure(team: Team, _: Any) -> list[float]:
        took = team.owner.ask("put_map", name="map", count=scale.objects, size=KIB)["us"]
        team.owner.ask("remove", names=["map"])
        return [took]

    title = f"{scale.objects:,} objects of 1 KiB as one value: put, each"
    return Workload("map/put", title, nothing, measure, done, rounds=3)


def map_get(scale: Scale) -> Workload:
    """Get one value of ten thousand parts, and look up each part."""

    def prepare(team: Team) -> str:
        return str(team.owner.ask("put_map", name="map", count=scale.objects, size=KIB)["key"])

    def measure(team: Team, key: str) -> list[float]:
        return [team.user.ask("get_map", key=key, count=scale.objects)]

    title = f"{scale.objects:,} objects of 1 KiB as one value: get, each"
    return Workload("map/get", title, prepare, measure, remove("map"), rounds=3)


def spread_rate(scale: Scale) -> Workload:
    """One writer replaces 1 MiB, readers read every page; generations a second that all have read."""

    def prepare(team: Team) -> list[Worker]:
        team.owner.ask("put", name="spread", size=MIB)
        return _readers(team, scale.readers)

    def measure(team: Team, readers: list[Worker]) -> list[float]:
        times = _spread(team, readers, "spread", MIB, scale.turns)
        return [1e6 / took for took in times]

    title = f"one writer, {scale.readers} readers: generations of 1 MiB a second that all have read"
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


def spread_memory(scale: Scale) -> Workload:
    """The memory (PSS) that one value takes in the server, the owner and the readers, all pages read."""
    size = min(64 * MIB, scale.largest)

    def measure(team: Team, readers: list[Worker]) -> list[float]:
        pids = [*team.pids, *(reader.pid for reader in readers)]
        team.owner.ask("warm", size=size)
        before = memory_kib(pids, "Pss")
        team.owner.ask("put", name="spread", size=size)
        _spread(team, readers, "spread", size, 1)
        return [(memory_kib(pids, "Pss") - before) / 1024]

    title = f"one writer, {scale.readers} readers: memory for a value of {text(size)}"
    return Workload(
        "spread/pss",
        title,
        lambda team: _readers(team, scale.readers),
        measure,
        _end_readers,
        unit="MiB",
        rounds=1,
    )


def spread_total(scale: Scale) -> Workload:
    """All memory (PSS) of the server, the owner and the readers that read one value of 1 MiB."""

    def measure(team: Team, readers: list[Worker]) -> list[float]:
        team.owner.ask("put", name="spread", size=MIB)
        _spread(team, readers, "spread", MIB, 1)
        pids = [*team.servers, team.owner.pid, *(reader.pid for reader in readers)]
        return [memory_kib(pids, "Pss") / 1024]

    title = f"one writer, {scale.readers} readers: all memory of all processes, a value of 1 MiB"
    return Workload(
        "spread/total",
        title,
        lambda team: _readers(team, scale.readers),
        measure,
        _end_readers,
        unit="MiB",
        rounds=1,
    )


def _readers(team: Team, count: int) -> list[Worker]:
    return [reader for reader, _ in team.workers([team.cpus[index % 2] for index in range(count)])]


def _spread(team: Team, readers: list[Worker], name: str, size: int, turns: int) -> list[float]:
    go = [team.site.path(f"{team.peer.key}-{index}.go") for index in range(len(readers))]
    back = team.site.path(f"{team.peer.key}.back")
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
