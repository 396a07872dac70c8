"""What `top` shows of a host: its figures, and its lines in any width."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from shmhost.commands.top import figures
from shmhost.commands.top import view as top
from shmprotocol.wire import messages as m
from top_support import NS, STARTED, full_sample, info, sample

SORTS = ("name", "size", "leases", "generation", "rate")


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
    assert "from the next sample on" in top.render(view, top.State("/s"), 80).plain


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


def test_sort_begins_with_the_largest_numbers_and_is_reversed_by_the_same_key() -> None:
    state, seen = top.State("/s"), []
    for key in ("name", "name", "size", "size", "rate"):
        state = top.choose(state, key)
        seen.append((state.sort, state.reverse))
    assert seen == [("name", True), ("name", False), ("size", True), ("size", False), ("rate", True)]


def test_filter_leaves_the_names_that_have_it_in_any_case() -> None:
    view = figures.compare(None, sample(1, *map(info, ["models/A", "Models/b", "other", "[a]"])))
    state = top.State("/s", filter="MODELS")
    assert names(top.visible_rows(view, state)) == ["Models/b", "models/A"]
    assert top.heading(view, state, 80)[1].plain == "filter    MODELS: 2 of 4 regions"
    assert names(top.visible_rows(view, state._replace(filter="[a]"))) == ["[a]"]
    assert top.render(view, state._replace(filter="none"), 80).plain.endswith(
        "\nno region has this in its name"
    )


# --- lines


def full_view(regions: int = 50) -> figures.View:
    """Return a view in which every line is too long for 80 columns."""
    return figures.compare(*full_sample(regions))


@pytest.mark.parametrize("notice", ["", "no host: waiting for it"])
@pytest.mark.parametrize("text", ["", "名", "x" * 300])
@pytest.mark.parametrize("regions", [0, 1, 50])
def test_lines_fit_any_width(regions: int, text: str, notice: str) -> None:
    state = top.State("/run/日本/" + "x" * 200, filter=text, notice=notice)
    view = full_view(regions)
    for width in (1, 2, 5, 11, 20, 39, 40, 79, 80, 81, 200):
        for sort in SORTS:
            lines = top.render(view, state._replace(sort=sort), width).plain.split("\n")
            assert max(cell_len(line) for line in lines) <= width
        for height in (1, 2, 5):
            assert len(top.heading(view, state, width, height)) == min(height, 5 + bool(notice) + bool(text))


def test_view_of_80_columns_shows_all_there_is_to_know() -> None:
    view = full_view()
    lines = top.render(view, top.State("/run/host.sock", "size", True), 80).plain.split("\n")
    assert lines[0].startswith("shmhost top  …st.sock  up 5 min  restarts 1000000  clients 1000000")
    assert lines[1].endswith("512.0 MiB of 1.0 GiB, 50%")
    assert abs(lines[1].count("█") - lines[1].count("░")) <= 1
    assert lines[2].startswith("requests  operation-8 26667/s 0 us  ")
    assert lines[2].endswith(" more")
    assert lines[3].startswith("refusals  refusal-0 0.033/s  ")
    assert lines[4].startswith("users     uid 70009: 68.4 TiB, 3 regions, 2 clients  +9 more")
    header = ["name", "gen", "size", "▼", "leases", "uid", "state", "age", "rate"]
    assert lines[5].split() == header
    assert [cell_len(line) for line in lines[5:]] == [80] * 51
    assert all("… " in line and line.endswith("  0 current      5 min      0") for line in lines[6:])


@pytest.mark.parametrize("key", ["leases", "rate", "name"])
def test_narrow_screen_keeps_names_and_what_is_sorted_by(key: str) -> None:
    state = top.State("/s", key, True)
    for width in (20, 24, 40):
        lines = top.render(full_view(), state, width).plain.split("\n")
        (header,) = [line for line in lines if line.startswith("name")]
        assert f"{key} ▼" in header


def test_columns_are_hit_by_the_cells_of_their_titles() -> None:
    view, state = full_view(1), top.State("/s", "size", True)
    columns = top.fit_columns(view.rows, view, state, 80)
    header = top.header_line(columns, state).plain
    hits = {title: top.sort_at(columns, header.index(title)) for title in ("name", "gen", "size", "rate")}
    assert hits == {"name": "name", "gen": "generation", "size": "size", "rate": "rate"}
    assert top.sort_at(columns, header.index("uid")) == top.sort_at(columns, 81) == ""


def test_smallest_heading_says_that_the_host_is_gone() -> None:
    state = top.State("/s", filter="x", notice="no host: waiting for it")
    lines = top.heading(full_view(), state, 30, 2)
    assert [line.plain[:12] for line in lines] == ["shmhost top ", "no host: wai"]


def test_markup_and_controls_in_names_are_shown_and_not_obeyed() -> None:
    hostile = ["[red]a[/red]", "[/]", "\\[b]", "x\x1b[2Jy", "a\u202eb", "c\nd"]
    view = figures.compare(None, sample(1, *map(info, hostile), refusals=(m.Tally("\x1b[m", 1),)))
    state = top.State("/s\x1b[2J", notice="\x1b[31m")
    lines = top.render(view, state, 80).plain.split("\n")
    lines += [line.plain for line in top.heading(view, state._replace(filter="\x1b[2J"), 80)]
    shown = [line.split("  ")[0] for line in lines]
    assert {"[red]a[/red]", "[/]", "\\[b]", "x\ufffd[2Jy", "a\ufffdb", "c\ufffdd"} <= set(shown)
    assert all(line.isprintable() for line in lines)


def test_ages_of_regions_that_are_being_made_are_unknown() -> None:
    view = figures.compare(None, sample(1, info("a", 0, state="creating", created_ns=0)))
    assert top.render(view, top.State("/s"), 80).plain.split("\n")[-1].split()[1:] == (
        ["-", "100", "B", "0", "0", "creating", "-", "-"]
    )
