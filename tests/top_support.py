"""Samples of a host that were made up, and the screen of the live view of `top` as text."""

from __future__ import annotations

from typing import Any

from shmhost.commands.top import figures
from shmprotocol.wire import messages as m

NS = 10**9
STARTED = 10**18


def info(name: str, generation: int = 1, **values: Any) -> m.RegionInfo:
    region = m.RegionInfo(
        name, 1, generation, "current", 0, 100, 4096, 0, 0, 0o600, "full", "memfd", 0, STARTED, 0
    )
    return region._replace(**values)


def measured(**values: Any) -> m.Measured:
    return m.Measured(2, STARTED, 0, 1 << 30, 0, 1, 0, 1, 0, (), (), (), ())._replace(**values)


def sample(at_s: float, *regions: m.RegionInfo, **values: Any) -> figures.Sample:
    return figures.Sample(measured(**values), regions, round(at_s * NS), STARTED + round(at_s * NS))


def full_sample(regions: int = 50) -> tuple[figures.Sample, figures.Sample]:
    """Return two samples in whose view every line is too long for 80 columns."""
    rows = [info(f"名前/{number:03}/{'長い' * 40}", number, size=2**40) for number in range(regions)]
    timings = [m.Timing(f"operation-{number}", 10**6 * number, NS) for number in range(9)]
    accounts = tuple(m.Account(number, 3, number << 30, 2) for number in range(70_000, 70_010))
    refusals = tuple(m.Tally(f"refusal-{number}", 10) for number in range(9))
    values = {"used": 1 << 29, "accounts": accounts, "clients": 10**6, "restarts": 10**6}
    return sample(0, *rows), sample(300, *rows, timings=tuple(timings), refusals=refusals, **values)
