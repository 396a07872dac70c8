"""Settings: every form that is documented, and a clear error for every other."""

from __future__ import annotations

from typing import Any

import pytest

from shmhost.core.window import STEP
from shmhost.settings.config import OWN_MEMORY, WINDOWS, Config, default_budget, parse_window
from shmprotocol.cli import parse_size
from shmprotocol.errors import InvalidArgument

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        ("1K", 1024),
        ("2m", 2 << 20),
        ("1.5G", 3 << 29),
        ("1GiB", 1 << 30),
        ("1T", 1 << 40),
    ],
)
def test_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "1X", "1e3", "1 G G", "٣"])
def test_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_size(text)


def test_window_is_read() -> None:
    assert parse_window("0x550000000000:256G") == WINDOWS[0]


@pytest.mark.parametrize("text", ["", "0x1000", ":1G", "here:1G", "0x1000:", "0x1000:1X"])
def test_window_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_window(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"windows": ()},
        {"windows": ((STEP + 1, STEP),)},
        {"windows": ((STEP, STEP - 1),)},
        {"windows": ((0, STEP),)},
        {"windows": ((2**47 - STEP, 2 * STEP),)},
        {"windows": ((STEP, 2 * STEP), (2 * STEP, STEP))},
        {"budget": 0},
        {"socket_mode": 0o1000},
    ],
)
def test_config_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Config(socket_path="/tmp/x", **settings)


def test_budget_is_below_what_the_machine_has() -> None:
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        total = int(meminfo.readline().split()[1]) * 1024
    assert 0 < default_budget() <= (total - OWN_MEMORY) * 4 // 5


@pytest.mark.parametrize(
    ("limit", "budget"),
    [(64 * MIB, 28 * MIB * 4 // 5), (49 * MIB, 13 * MIB * 4 // 5), (40 * MIB, 8 * MIB), (1000, 200)],
)
def test_default_budget_leaves_the_host_its_own_memory(
    limit: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmhost.settings.config.memory_limits", lambda: [(limit, "x"), (1 << 50, "y")])
    assert default_budget() == budget
