"""Workloads that measure the server of a peer: its CPU time and its memory."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.base import Unsupported
from benchmarks.peers.team import Team, memory_kib
from benchmarks.peers.workload import KIB, Scale, Workload, done, nothing, remove_many


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
    return Workload("memory/value", title, nothing, measure, done, unit="B", rounds=1)


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
            remove_many(team, prefix, scale.objects // 2)

    title = "memory of the server for each value that a client holds"
    return Workload("memory/lease", title, nothing, measure, finish, unit="B", rounds=1)
