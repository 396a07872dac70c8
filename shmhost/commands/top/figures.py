"""The figures of `top`: rates between two samples of a host, and an order of the rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import State

_NS = 10**9


class Sample(NamedTuple):
    """The state of a host at one moment, by CLOCK_MONOTONIC (`taken_ns`) and CLOCK_REALTIME (`now_ns`)."""

    measured: m.Measured
    regions: tuple[m.RegionInfo, ...]
    taken_ns: int
    now_ns: int


class Pace(NamedTuple):
    """The rate and the mean duration of an operation."""

    operation: str
    per_s: float
    mean_us: float


class Row(NamedTuple):
    """A region, and the publishes of its name per second."""

    info: m.RegionInfo
    rate: float


class View(NamedTuple):
    """The figures of a sample. `interval_s` is 0.0 for the first one, which has no rates."""

    measured: m.Measured
    now_ns: int
    interval_s: float
    paces: tuple[Pace, ...]
    refusals: tuple[tuple[str, float], ...]
    users: tuple[m.Account, ...]
    rows: tuple[Row, ...]


def compare(before: Sample | None, after: Sample) -> View:
    """Return the figures of `after`, with rates since `before` if that was the same run of the host."""
    if before is not None and before.measured.started_ns != after.measured.started_ns:
        before = None  # the counters were reset
    interval_s = 0.0 if before is None else (after.taken_ns - before.taken_ns) / _NS
    published = _published(before, after)
    per_s = 1 / interval_s if interval_s else 0.0
    return View(
        after.measured,
        after.now_ns,
        interval_s,
        _paces(before, after, per_s),
        _refusals(before, after, per_s),
        tuple(sorted(after.measured.accounts, key=lambda account: (-account.capacity, account.uid))),
        tuple(Row(info, published.get(info.name, 0) * per_s) for info in after.regions),
    )


def _paces(before: Sample | None, after: Sample, per_s: float) -> tuple[Pace, ...]:
    if before is None:
        return ()
    older = {timing.operation: timing for timing in before.measured.timings}
    paces: list[Pace] = []
    for new in after.measured.timings:
        old = older.get(new.operation, m.Timing(new.operation, 0, 0))
        requests = new.requests - old.requests
        if requests > 0:
            mean_us = (new.total_ns - old.total_ns) / requests / 1000
            paces.append(Pace(new.operation, requests * per_s, mean_us))
    return tuple(sorted(paces, key=lambda pace: (-pace.per_s, pace.operation)))


def _refusals(before: Sample | None, after: Sample, per_s: float) -> tuple[tuple[str, float], ...]:
    if before is None:
        return ()
    older = {tally.code: tally.refusals for tally in before.measured.refusals}
    more = [(tally.code, tally.refusals - older.get(tally.code, 0)) for tally in after.measured.refusals]
    rates = [(code, count * per_s) for code, count in more if count > 0]
    return tuple(sorted(rates, key=lambda tally: (-tally[1], tally[0])))


def _published(before: Sample | None, after: Sample) -> dict[str, int]:
    """Return the publishes of each name, and of all names in an arena together.

    1 for a new name, whose generations may start at any number.
    """
    if before is None:
        return {}
    older = _newest(before.regions)
    counts: dict[str, int] = {}
    for name, new in _newest(after.regions).items():
        counts[name] = new - older.get(name, new - 1)
    values = {info.region: info.arena.values for info in before.regions}
    for info in after.regions:
        if info.kind == KIND_ARENA:  # its owner publishes without the host
            counts[info.name] = max(info.arena.values - values.get(info.region, info.arena.values), 0)
    return counts


def _newest(regions: Iterable[m.RegionInfo]) -> dict[str, int]:
    newest: dict[str, int] = {}
    for info in regions:
        if info.state not in (State.SPARE, State.CREATING, State.ABORTED):
            newest[info.name] = max(info.generation, newest.get(info.name, 0))
    return newest


def sort_rows(rows: Iterable[Row], key: str, reverse: bool) -> list[Row]:
    """Return the rows sorted by name, size, leases, generation or rate; equal ones by name and age."""
    keys: dict[str, Callable[[Row], object]] = {
        "name": lambda row: (row.info.name, row.info.region),
        "size": lambda row: row.info.size,
        "leases": lambda row: row.info.leases,
        "generation": lambda row: row.info.generation,
        "rate": lambda row: row.rate,
    }
    by_name = sorted(rows, key=lambda row: (row.info.name, row.info.region))
    return sorted(by_name, key=keys[key], reverse=reverse)  # type: ignore[arg-type]
