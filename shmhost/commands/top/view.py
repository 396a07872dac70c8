"""The lines of `top`: figures in, text out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.text import Text

from shmhost.commands.text import STATE_COLORS, age, format_size, printable
from shmhost.commands.top.figures import Row, View, sort_rows
from shmhost.commands.views.regions import region_dict
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m

NAME_CELLS = 12  # of a region's name, before columns are left out for it
_NS = 10**9


class State(NamedTuple):
    """The user's choices: which names are shown, and how sorted; and a message for the user (`notice`)."""

    socket: str
    sort: str = "name"
    reverse: bool = False
    filter: str = ""
    notice: str = ""


# --- the user's choices


def choose(state: State, key: str) -> State:
    """Return the state with another sort, the largest numbers first; the same key again reverses."""
    return state._replace(sort=key, reverse=not state.reverse if key == state.sort else key != "name")


def visible_rows(view: View, state: State) -> list[Row]:
    """Return the rows that the filter leaves, in their order. Upper and lower case are the same to it."""
    text = state.filter.casefold()
    rows = [row for row in view.rows if text in row.info.name.casefold()] if text else view.rows
    return sort_rows(rows, state.sort, state.reverse)


def as_dict(view: View, state: State) -> dict[str, object]:
    """Return the figures for JSON: bytes, seconds, and rates per second."""
    measured = view.measured
    rows = sort_rows(view.rows, state.sort, state.reverse)
    return {
        "socket": state.socket,
        "uptime_s": _uptime_ns(view) / _NS,
        **{key: getattr(measured, key) for key in ("restarts", "clients", "listeners", "budget", "used")},
        **{key: getattr(measured, key) for key in ("arenas", "ledgers", "expected", "expected_bytes")},
        "rates": {pace.operation: round(pace.per_s, 3) for pace in view.paces},
        "mean_us": {pace.operation: round(pace.mean_us, 3) for pace in view.paces},
        "refusals": {code: round(per_s, 3) for code, per_s in view.refusals},
        "users": [user._asdict() for user in view.users],
        "shares": [use._asdict() for use in measured.uses],
        "regions": [region_dict(row.info) | {"rate": round(row.rate, 3)} for row in rows],
    }


def _uptime_ns(view: View) -> int:
    return max(view.now_ns - view.measured.started_ns, 0)


# --- screen


def render(view: View, state: State, width: int) -> Text:
    """Return all there is, in at most `width` cells."""
    rows = visible_rows(view, state)
    columns = fit_columns(rows, view, state, width)
    lines = [*heading(view, state, width), header_line(columns, state)]
    lines += [row_line(columns, row, view) for row in rows] if rows else [empty_line(view)]
    shown = Text("\n", no_wrap=True, overflow="crop").join(_fitted(line, width) for line in lines)
    shown.no_wrap = True
    return shown


def heading(view: View, state: State, width: int, height: int | None = None) -> list[Text]:
    """Return the lines above the table, at most `height` of them, the most dispensable ones last."""
    lines = [_head(view, state, width)]
    if state.notice:
        lines.append(Text(state.notice, style="bold reverse"))
    if state.filter:
        shown, all_rows = len(visible_rows(view, state)), _count(len(view.rows), "region")
        lines.append(_list("filter", [f"{state.filter}: {shown} of {all_rows}"], width))
    lines += _figures(view, width)
    return [_fitted(line, width) for line in lines[:height]]


def _fitted(line: Text, width: int) -> Text:
    line.plain = printable(line.plain)
    line.truncate(width, overflow="ellipsis")
    return line


def _head(view: View, state: State, width: int) -> Text:
    measured = view.measured
    regions = sum(total.regions for total in measured.totals)
    rest = (
        f"  up {age(measured.started_ns, view.now_ns)}  restarts {measured.restarts}"
        f"  clients {measured.clients}  listeners {measured.listeners}  regions {regions}"
    )
    title = "shmhost top"
    socket = printable(state.socket)
    room = max(width - len(title) - 2 - len(rest), 8)
    while cell_len(socket) > room:
        socket = "…" + socket[2:]  # the end of a path tells most
    return Text.assemble((title, "bold"), "  ", socket, rest)


def _figures(view: View, width: int) -> list[Text]:
    """Return the lines between head and table, the most dispensable ones last."""
    paces = [f"{row.operation} {_number(row.per_s)}/s {row.mean_us:.0f} us" for row in view.paces]
    if not view.interval_s:
        paces = ["from the next sample on"]
    most = {use.uid: format_size(use.most) for use in view.measured.uses if use.resource == "bytes"}
    users = [
        f"uid {row.uid}: {format_size(row.capacity)}{' of ' + most[row.uid] if row.uid in most else ''}, "
        f"{_count(row.regions, 'region')}, {_count(row.clients, 'client')}"
        for row in view.users
    ]
    lines = [_memory(view.measured, width), _list("requests", paces, width)]
    if view.refusals:
        refusals = [f"{code} {_number(per_s)}/s" for code, per_s in view.refusals]
        lines.append(_list("refusals", refusals, width))
    if view.measured.arenas:
        parts = [
            _count(view.measured.arenas, "arena"),
            _count(view.measured.ledgers, "client") + " with a ledger",
        ]
        lines.append(_list("arenas", parts, width))
    if view.measured.expected:
        size = format_size(view.measured.expected_bytes)
        parts = [_count(view.measured.expected, "region"), size, "of a killed host, not back yet"]
        lines.append(_list("expected", parts, width))
    return [*lines, _list("users", users, width)]


def _memory(measured: m.Measured, width: int) -> Text:
    share = measured.used / measured.budget if measured.budget else 0.0
    text = f"{format_size(measured.used)} of {format_size(measured.budget)}, {share:.0%}"
    line = Text.assemble((f"{'memory':<10}", "bold"))
    room = width - 10 - len(text) - 2
    if room >= 8:
        full = min(max(round(room * share), measured.used > 0), room)
        line.append("█" * full, style="green" if share < 0.9 else "red")
        line.append("░" * (room - full) + "  ", style="dim")
    return line.append(text)


def _list(title: str, parts: Sequence[str], width: int) -> Text:
    """Return a line with as many parts as fit, and the number of the others."""
    line = Text.assemble((f"{title:<10}", "bold"), parts[0] if parts else "none")
    for index, part in enumerate(parts[1:], 1):
        rest = f"  +{len(parts) - index} more"
        reserve = len(rest) if index < len(parts) - 1 else 0
        if line.cell_len + 2 + cell_len(part) + reserve > width:
            return line.append(rest)
        line.append(f"  {part}")
    return line


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


class Column(NamedTuple):
    """A column of the table: `width` is the least, in cells; a longer text makes it wider."""

    sort: str
    title: str
    width: int
    is_right: bool
    text: Callable[[Row, View], str]


COLUMNS = (
    Column("name", "name", 0, False, lambda row, _: printable(row.info.name)),
    Column("generation", "gen", 5, True, lambda row, _: str(row.info.generation or "-")),
    Column("size", "size", 10, True, lambda row, _: format_size(row.info.size)),
    Column("leases", "leases", 8, True, lambda row, _: str(row.info.leases)),
    Column("", "uid", 5, True, lambda row, _: str(row.info.uid)),
    Column("", "state", 10, False, lambda row, _: printable(row.info.state)),
    Column("", "age", 7, True, lambda row, view: _age(row, view)),
    Column("rate", "rate", 6, True, lambda row, view: _number(row.rate) if view.interval_s else "-"),
)
# Columns to drop on a narrow screen, in this order.
_LEAST = ("age", "uid", "state", "rate", "leases", "gen", "size")


def _age(row: Row, view: View) -> str:
    return age(row.info.created_ns, view.now_ns) if row.info.created_ns else "-"


Columns = Sequence[tuple[Column, int]]  # with the width of each


def header_line(columns: Columns, state: State) -> Text:
    """Return the titles of columns; that of the sorted one has an arrow."""
    return _line(columns, [(_title(column, state), "bold reverse") for column, _ in columns])


def row_line(columns: Columns, row: Row, view: View) -> Text:
    """Return the line of a region."""
    styles = {"state": STATE_COLORS.get(row.info.state, "")}
    return _line(columns, [(column.text(row, view), styles.get(column.title, "")) for column, _ in columns])


def empty_line(view: View) -> Text:
    """Return what stands in a table without rows."""
    return Text("no region has this in its name" if view.rows else "no regions", style="dim")


def sort_at(columns: Columns, cell: int) -> str:
    """Return the sort of the column at a cell of its line; "" if it has none."""
    end = 0
    for column, width in columns:
        end += width + 1
        if cell < end:
            return column.sort
    return ""


def fit_columns(rows: Sequence[Row], view: View, state: State, width: int) -> Columns:
    """Return the columns that fit, with their widths; the sorted one always stays."""
    columns = [
        (column, max([column.width, *(cell_len(column.text(row, view)) for row in rows)]))
        for column in COLUMNS[1:]
    ]
    for title in _LEAST:
        if width - sum(cells + 1 for _, cells in columns) >= NAME_CELLS:
            break
        columns = [entry for entry in columns if entry[0].title != title or entry[0].sort == state.sort]
    name = width - sum(cells + 1 for _, cells in columns)
    return [(COLUMNS[0], max(name, 1)), *columns]


def _title(column: Column, state: State) -> str:
    arrow = "▼" if state.reverse else "▲"
    return f"{column.title} {arrow}" if column.sort == state.sort else column.title


def _line(columns: Columns, texts: Sequence[tuple[str, str]]) -> Text:
    line = Text()
    for (column, width), (text, style) in zip(columns, texts, strict=True):
        cell = Text(text)
        cell.truncate(width, overflow="ellipsis")
        space = " " * (width - cell.cell_len)
        line.append(" " if line else "", style)
        line.append(space + cell.plain if column.is_right else cell.plain + space, style)
    return line
