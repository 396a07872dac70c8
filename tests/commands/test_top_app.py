"""The live view of `top`, driven by textual's pilot: what a real terminal cannot be asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Footer, Input

from shmhost.commands.top import table as table_module
from shmhost.commands.top.app import Top
from shmhost.commands.top.feed import Feed
from shmhost.commands.top.figures import Sample
from shmhost.commands.top.table import RegionTable
from shmhost.commands.top.view import State
from shmprotocol.errors import HostGone
from top_support import full_sample, info, sample

INTERVAL_S = 0.3
MANY = [info(f"r{number:05}", size=number) for number in range(10_000)]
SOME = MANY[:1000]
SIZES = [(1, 1), (2, 2), (11, 3), (20, 5), (39, 8), (80, 11), (80, 12), (80, 24), (200, 60)]


class Made(Feed):
    """Gives the same sample again and again, or what an event lets through."""

    def __init__(self, content: Sample, take: Callable[[], object] = lambda: None) -> None:
        super().__init__("/nowhere")
        self._content, self._before = content, take

    def take(self) -> Sample:
        self._before()
        return self._content


def piloted(
    feed: Made, steps: Callable[[Top, Pilot[None]], Awaitable[object]], size: tuple[int, int] = (80, 24)
) -> None:
    """Run the view on a screen of a size, and let a test press keys."""

    async def run() -> None:
        top = Top(State("/s"), feed, feed._content, INTERVAL_S)
        async with top.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(top, pilot)

    asyncio.run(asyncio.wait_for(run(), 50))


def lines(top: Top) -> list[str]:
    return [strip.text for strip in top.screen._compositor.render_strips()]


def rows(top: Top) -> list[str]:
    return [line.split()[0] for line in lines(top) if line.startswith("r") and " current " in line]


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    while not condition():  # the whole test has a limit
        await pilot.pause(0.01)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_screen_has_no_line_that_is_too_long_and_keeps_the_table(size: tuple[int, int]) -> None:
    async def steps(top: Top, pilot: Pilot[None]) -> None:
        for width, height in (size, (size[0] + 7, size[1] + 2), size):
            await pilot.resize_terminal(width, height)
            cells = [width] * height
            await until(pilot, lambda cells=cells: [cell_len(line) for line in lines(top)] == cells)
            assert top.query_one(Footer).display == (height >= 12)
            if height >= 4:
                await until(pilot, lambda: any(line.startswith("名") for line in lines(top)))

    piloted(Made(full_sample()[1]), steps, size)


def test_ten_thousand_regions_are_scrolled_through_and_drawn_a_screen_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[str] = []
    real = table_module.row_line

    def row_line(columns: Any, row: Any, view: Any) -> Any:
        drawn.append(row.info.name)
        return real(columns, row, view)

    monkeypatch.setattr(table_module, "row_line", row_line)

    async def steps(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: rows(top)[:1] == ["r00000"])
        screen = len(rows(top))
        for key, first in [("end", 10_000 - screen), ("up", 9_999 - screen), ("home", 0), ("down", 1)]:
            await pilot.press(key)
            await until(pilot, lambda first=first: rows(top)[:1] == [f"r{first:05}"])
            assert len(rows(top)) == screen
        drawn.clear()
        await pilot.press("pagedown")
        await until(pilot, lambda: rows(top)[0] > "r00001")
        assert rows(top)[0] <= f"r{1 + screen:05}"
        assert set(drawn) < {f"r{number:05}" for number in range(3 * screen)}

    piloted(Made(sample(1, *MANY)), steps)


def test_place_in_the_table_stays_when_figures_come() -> None:
    taken = 0

    def take() -> None:
        nonlocal taken
        taken += 1

    async def steps(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press("end", "up", "up")
        await pilot.pause()
        before, count = rows(top), taken
        await until(pilot, lambda: taken > count + 3)
        assert rows(top) == before

    piloted(Made(sample(1, *SOME), take), steps)


def test_filter_is_typed_kept_and_left() -> None:
    async def steps(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press("end", "slash", *"0/", "backspace", *"099")
        await until(pilot, lambda: rows(top) == ["r00099", *(f"r0099{number}" for number in range(10))])
        assert any(line.startswith("filter    0099: 11 of 1000 regions") for line in lines(top))
        assert "/ filter" not in lines(top)[-1]
        assert "esc show all" in " ".join(lines(top)[-1].split())
        await pilot.press("enter", "s", "n")  # a sort, no text
        await until(pilot, lambda: not top.query_one(Input).display)
        assert rows(top)[0] == "r00099"
        await pilot.press("escape")
        await until(pilot, lambda: rows(top)[0] == "r00000")
        await pilot.press("slash", *"none")
        await until(pilot, lambda: any(line.startswith("no region has this") for line in lines(top)))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: not top.is_running)

    piloted(Made(sample(1, *SOME)), steps)


def test_titles_sort_when_they_are_clicked() -> None:
    async def steps(top: Top, pilot: Pilot[None]) -> None:
        header = next(line for line in lines(top) if line.startswith("name"))
        for names in (["r00999", "r00998"], ["r00000", "r00001"]):
            await pilot.click(RegionTable, offset=(header.index("size"), 0))
            await until(pilot, lambda names=names: rows(top)[:2] == names)

    piloted(Made(sample(1, *SOME)), steps)


def test_keys_are_heard_while_the_host_gives_no_answer() -> None:
    answer, asked = threading.Event(), threading.Event()

    def take() -> None:
        asked.set()
        assert answer.wait(50)

    async def steps(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, asked.is_set)
        await pilot.press("s")
        await until(pilot, lambda: any("size ▼" in line for line in lines(top)))
        answer.set()

    piloted(Made(sample(1, *SOME), take), steps)


def test_host_that_is_gone_and_back_is_told_of() -> None:
    gone = threading.Event()
    gone.set()

    def take() -> None:
        if gone.is_set():
            raise HostGone("no host")

    async def steps(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: any(line.startswith("no host: waiting") for line in lines(top)))
        assert rows(top)
        gone.clear()
        await until(pilot, lambda: not any("no host" in line for line in lines(top)))

    piloted(Made(sample(1, *SOME), take), steps)


def test_fault_of_the_thread_is_one_of_the_view() -> None:
    def take() -> None:
        raise ZeroDivisionError("a fault")

    async def steps(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: not top.is_running)

    with pytest.raises(ZeroDivisionError, match="a fault"):
        piloted(Made(sample(1), take), steps)
