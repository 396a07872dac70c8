"""The workloads: those of one value here, the others in their modules. They know no peer."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers import many, servers
from benchmarks.peers.base import Unsupported
from benchmarks.peers.team import Team, Worker
from benchmarks.peers.workload import (
    GIB,
    KIB,
    MIB,
    Scale,
    Workload,
    done,
    interrupt,
    nothing,
    published,
    remove,
    text,
)


def workloads(scale: Scale) -> list[Workload]:
    """Return all workloads, in the order of the tables."""
    puts = [size for size in (KIB, MIB, 64 * MIB, 512 * MIB) if size <= scale.largest]
    attaches = [size for size in (MIB, GIB) if size <= scale.largest]
    return [
        servers.server_memory(scale),
        servers.lease_memory(scale),
        many.spread_total(scale),
        many.spread_memory(scale),
        *(attach(scale, size) for size in attaches),
        attach_under_load(scale),
        again(scale),
        *(put(scale, size, new=True) for size in puts),
        *(put(scale, size, new=False) for size in puts),
        notice(scale, "watch", "a thread"),
        notice(scale, "watch_loop", "an event loop"),
        many.many_put(scale),
        many.many_get(scale),
        many.map_put(scale),
        many.map_get(scale),
        many.spread_rate(scale),
        *(servers.server_cpu(scale, clients) for clients in scale.clients),
    ]


def attach(scale: Scale, size: int) -> Workload:
    """Attach a value by its key, read a byte, and let go, in another process than its owner."""
    limits = {"budget_s": scale.budget_s, "limit": scale.samples}
    return Workload(
        f"attach/{size}",
        f"attach + detach, {text(size)}",
        published("attach", size),
        lambda team, key: list(team.user.ask("time_attach", key=key, **limits)),
        remove("attach"),
        rounds=2 if size > 64 * MIB else 0,
        each_round=size > 64 * MIB,
    )


def attach_under_load(scale: Scale) -> Workload:
    """Attach while the owner, on the other CPU, replaces another value of 1 MiB without a pause."""

    def prepare(team: Team) -> tuple[str, Worker]:
        key = str(team.owner.ask("put", name="attach", size=MIB))
        noise, _ = team.worker(team.cpus[1])
        noise.ask("put", name="noise", size=MIB)
        return key, noise

    def measure(team: Team, prepared: tuple[str, Worker]) -> list[float]:
        key, noise = prepared
        noise.send("noise", name="noise", size=MIB)
        time.sleep(0.02)
        times = team.user.ask("time_attach", key=key, budget_s=4 * scale.budget_s, limit=scale.samples)
        interrupt(noise)
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

    return Workload("again", "get again, 1 MiB", prepare, measure, remove("again"))


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
        nothing if new else published(name, size),
        lambda team, _: list(team.owner.ask(step, name=name, size=size, **limits)),
        done if new else remove(name),
        rounds=5 if size >= 64 * MIB else 0,
        each_round=size >= 64 * MIB,
    )


def _limits(scale: Scale, size: int) -> dict[str, Any]:
    """Bound the samples of a round, for large values by the memory that they take."""
    return {"budget_s": scale.budget_s, "limit": max(1, min(scale.samples, 64 * MIB // size))}


def notice(scale: Scale, step: str, waiter: str) -> Workload:
    """Replace a value of 1 KiB: the time until another process, asleep before, has the new one."""

    def measure(team: Team, _: Any) -> list[float]:
        team.user.send(step, name="notice", count=scale.notices)
        team.user.answer("ready")
        team.owner.send("announce", name="notice", size=KIB, pause_s=0.002)
        try:
            ages = list(team.user.answer())
        finally:
            interrupt(team.owner)
        if not ages:
            raise Unsupported("no notice came")
        return ages

    title = f"put of 1 KiB until {waiter} of another process has it"
    return Workload(
        f"notice/{step}",
        title,
        published("notice", KIB),
        measure,
        remove("notice"),
        rounds=min(5, scale.rounds),
    )
