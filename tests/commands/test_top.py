"""What `top` shows of a host: its figures, and its screen in any size."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from shmhost.commands.top import figures
from shmhost.commands.top import view as top
from shmhost.commands.top.keys import END, ESCAPE
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


def names(rows: list[figures.Row]) -> list[str]:
    return [row.info.name for row in rows]


# --- figures


def test_rates_and_latencies_are_those_between_two_samples() -> None:
    before = sample(
        10,
        timings=(m.Timing("open", 100, 5 * NS), m.Timing("stat", 7, 7)),
        refusals=(m.Tally("exists", 3), m.Tally("busy", 4)),
    )
    after = sample(
        12,
        timings=(
            m.Timing("create", 3, 90_000),
            m.Timing("open", 120, 5 * NS + 200_000),
            m.Timing("stat", 7, 7),
        ),
        refusals=(m.Tally("exists", 4), m.Tally("busy", 4), m.Tally("not-found", 6)),
    )
    view = figures.compare(before, after)
    assert view.interval_s == 2.0
    assert view.paces == (figures.Pace("open", 10.0, 10.0), figures.Pace("create", 1.5, 30.0))
    assert view.refusals == (("not-found", 3.0), ("exists", 0.5))


def test_no_rate_is_known_of_a_first_sample() -> None:
    view = figures.compare(None, sample(10, info("a"), timings=(m.Timing("open", 100, 5),)))
    assert (view.interval_s, view.paces, view.refusals, view.rows[0].rate) == (0.0, (), (), 0.0)
    assert "from the next sample on" in top.render(view, top.State("/s"), 80, 24).plain


def test_counters_that_began_again_give_no_rates() -> None:
    before = sample(10, info("a", 50), timings=(m.Timing("open", 100, 5 * NS),))
    after = sample(11, info("a", 2), timings=(m.Timing("open", 200, NS),), started_ns=STARTED + 5)
    assert figures.compare(before, after) == figures.compare(None, after)


def test_publishes_are_counted_by_the_newest_generation_of_a_name() -> None:
    before = sample(0, info("a", 3), info("a", 5), info("gone", 2), info("again", 9))
    after = sample(
        2,
        info("a", 5, state="superseded"),
        info("a", 11),
        info("a", 12, state="creating"),  # has its number, and may still be given up
        info("again", 13),  # all its regions were gone between the samples
        info("new", 2),
        info("making", 0, state="creating"),
    )
    rates = {row.info.name: row.rate for row in figures.compare(before, after).rows}
    assert rates == {"a": 3.0, "again": 2.0, "new": 0.5, "making": 0.0}


def test_samples_of_the_same_moment_divide_by_no_zero() -> None:
    moment = sample(1, info("a"))
    assert figures.compare(moment, moment).rows == (figures.Row(info("a"), 0.0),)


@pytest.mark.parametrize(
    ("key", "ascending"),
    [("name", "abc"), ("size", "bca"), ("leases", "acb"), ("generation", "cab"), ("rate", "bac")],
)
def test_rows_are_sorted_by_each_key_in_both_directions(key: str, ascending: str) -> None:
    rows = [
        figures.Row(info("c", 1, size=2, leases=2), 3.0),
        figures.Row(info("a", 2, size=3, leases=1), 2.0),
        figures.Row(info("b", 3, size=1, leases=3), 1.0),
    ]
    assert names(figures.sort_rows(rows, key, False)) == list(ascending)
    assert names(figures.sort_rows(rows, key, True)) == list(reversed(ascending))


@pytest.mark.parametrize("reverse", [False, True])
def test_equal_rows_are_sorted_by_name(reverse: bool) -> None:
    rows = [figures.Row(info(name), 0.0) for name in "cab"]
    assert names(figures.sort_rows(rows, "size", reverse)) == ["a", "b", "c"]


def test_keys_choose_and_reverse_the_sort_and_end_the_view() -> None:
    state: top.State | None = top.State("/s")
    seen = []
    for key in "nnsstlgx?h":
        assert state is not None
        state = top.press(state, key)
        assert state is not None
        seen.append((state.sort, state.reverse, state.help))
    assert seen == [
        ("name", True, False),
        ("name", False, False),
        ("size", True, False),
        ("size", False, False),
        ("rate", True, False),
        ("leases", True, False),
        ("generation", True, False),
        ("generation", True, False),
        ("generation", True, True),
        ("generation", True, False),
    ]
    assert [top.press(top.State("/s"), key) for key in ("q", ESCAPE, END)] == [None] * 3


# --- screen


def full_view(regions: int = 50) -> figures.View:
    """Return a view in which every line is too long for 80 columns."""
    rows = [info(f"名前/{number:03}/{'長い' * 40}", number, size=2**40) for number in range(regions)]
    timings = [m.Timing(f"operation-{number}", 10**6 * number, NS) for number in range(9)]
    accounts = tuple(m.Account(number, 3, number << 30, 2) for number in range(70_000, 70_010))
    refusals = tuple(m.Tally(f"refusal-{number}", 10) for number in range(9))
    values = {"used": 1 << 29, "accounts": accounts, "clients": 10**6, "restarts": 10**6}
    return figures.compare(
        sample(0, *rows), sample(300, *rows, timings=tuple(timings), refusals=refusals, **values)
    )


@pytest.mark.parametrize("notice", ["", "no host: waiting for it"])
@pytest.mark.parametrize("help_shown", [False, True])
@pytest.mark.parametrize("regions", [0, 1, 50])
def test_screen_fits_any_size(regions: int, help_shown: bool, notice: str) -> None:
    state = top.State("/run/日本/" + "x" * 200, help=help_shown, notice=notice)
    view = full_view(regions)
    for width in (1, 2, 5, 11, 20, 39, 40, 79, 80, 81, 200):
        for height in (1, 2, 3, 5, 8, 10, 11, 12, 24, 60):
            for sort in top.SORTS.values():
                shown = top.render(view, state._replace(sort=sort), width, height)
                lines = shown.plain.split("\n")
                assert len(lines) == height
                assert max(cell_len(line) for line in lines) <= width


def test_screen_of_80_by_24_shows_all_there_is_to_know() -> None:
    view = full_view()
    lines = top.render(view, top.State("/run/host.sock", "size", True), 80, 24).plain.split("\n")
    assert lines[0].startswith("shmhost top  …st.sock  up 5 min  restarts 1000000  clients 1000000")
    assert lines[1].endswith("512.0 MiB of 1.0 GiB, 50%")
    assert abs(lines[1].count("█") - lines[1].count("░")) <= 1
    assert lines[2].startswith("requests  operation-8 26667/s 0 us  ")
    assert lines[2].endswith(" more")
    assert lines[3].startswith("refusals  refusal-0 0.033/s  ")
    assert lines[4].startswith("users     uid 70009: 68.4 TiB, 3 regions, 2 clients  +9 more")
    header = ["name", "gen", "size", "▼", "leases", "uid", "state", "age", "rate"]
    assert lines[5].split() == header
    assert [cell_len(line) for line in lines[5:22]] == [80] * 17
    assert all("… " in line and line.endswith("  0 current      5 min      0") for line in lines[6:22])
    assert lines[22:] == ["... and 34 more", top.HINT]


@pytest.mark.parametrize(("regions", "more"), [(17, None), (18, "... and 2 more")])
def test_screen_tells_of_regions_that_it_has_no_line_for(regions: int, more: str | None) -> None:
    view = figures.compare(None, sample(1, *(info(f"r{number:02}") for number in range(regions))))
    lines = top.render(view, top.State("/s"), 80, 23).plain.split("\n")
    assert sum(line.startswith("r") and "current" in line for line in lines) == (16 if more else 17)
    assert (more in lines) if more else not any("more" in line for line in lines)


@pytest.mark.parametrize("key", ["leases", "rate", "name"])
def test_narrow_screen_keeps_names_and_what_is_sorted_by(key: str) -> None:
    state = top.State("/s", key, True)
    for width in (20, 24, 40):
        lines = top.render(full_view(), state, width, 10).plain.split("\n")
        (header,) = [line for line in lines if line.startswith("name")]
        assert f"{key} ▼" in header


def test_smallest_screen_says_that_the_host_is_gone() -> None:
    state = top.State("/s", notice="no host: waiting for it")
    lines = top.render(full_view(), state, 30, 3).plain.split("\n")
    assert [line[:12] for line in lines] == ["shmhost top ", "no host: wai", "name ▲      "]


def test_markup_and_controls_in_names_are_shown_and_not_obeyed() -> None:
    hostile = ["[red]a[/red]", "[/]", "\\[b]", "x\x1b[2Jy", "a\u202eb", "c\nd"]
    view = figures.compare(None, sample(1, *map(info, hostile), refusals=(m.Tally("\x1b[m", 1),)))
    lines = top.render(view, top.State("/s\x1b[2J", notice="\x1b[31m"), 80, 24).plain.split("\n")
    assert len(lines) == 24
    shown = [line.split("  ")[0] for line in lines]
    assert {"[red]a[/red]", "[/]", "\\[b]", "x\ufffd[2Jy", "a\ufffdb", "c\ufffdd"} <= set(shown)
    assert all(line.isprintable() for line in lines)


def test_ages_of_regions_that_are_being_made_are_unknown() -> None:
    view = figures.compare(None, sample(1, info("a", 0, state="creating", created_ns=0)))
    assert top.render(view, top.State("/s"), 80, None).plain.split("\n")[-1].split()[1:] == (
        ["-", "100", "B", "0", "0", "creating", "-", "-"]
    )
