"""The widgets of `top`: lines, and a table that scrolls and draws no more than is visible."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from shmhost.commands.top.figures import Row, View
from shmhost.commands.top.view import (
    Columns,
    State,
    empty_line,
    fit_columns,
    header_line,
    row_line,
    sort_at,
    visible_rows,
)


class Lines(Widget):
    """Lines that are cut where the screen ends: textual's own widgets for text wrap them."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Text] = []

    def show(self, lines: list[Text]) -> None:
        """Draw other lines."""
        self._lines = lines
        self.styles.height = len(lines)
        self.refresh(layout=True)

    def render_line(self, y: int) -> Strip:
        """Return line `y` of the widget."""
        return _strip(self, self._lines[y] if y < len(self._lines) else Text())


class RegionTable(ScrollView, can_focus=True):
    """A line of titles, which stays, and a line for each region; arrows, pages, Home and End scroll them."""

    DEFAULT_CSS: ClassVar[str] = """
    RegionTable { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    """

    class Sorted(Message):
        """A title was clicked."""

        def __init__(self, sort: str) -> None:
            super().__init__()
            self.sort = sort

    def __init__(self, view: View, state: State) -> None:
        super().__init__()
        self._view, self._state = view, state
        self._rows: list[Row] = visible_rows(view, state)
        self._columns: Columns = ()

    def show(self, view: View, state: State) -> None:
        """Draw other figures, or others of them."""
        self._view, self._state, self._rows = view, state, visible_rows(view, state)
        self.virtual_size: Size = Size(self.size.width, len(self._rows) + 1)
        self.refresh()

    def render_lines(self, crop: object) -> list[Strip]:
        """Fit the columns to the rows that are visible, once for all lines of a picture."""
        first = self.scroll_offset.y
        rows = self._rows[first : first + max(self.size.height - 1, 0)]
        self._columns = fit_columns(rows, self._view, self._state, self._width())
        return super().render_lines(crop)  # type: ignore[arg-type]

    def render_line(self, y: int) -> Strip:
        """Return line `y` of the widget."""
        return _strip(self, self._line(y))

    def _line(self, y: int) -> Text:
        index = self.scroll_offset.y + y - 1
        if y == 0:
            return header_line(self._columns, self._state)
        if index < len(self._rows):
            return row_line(self._columns, self._rows[index], self._view)
        return empty_line(self._view) if index == 0 else Text()

    def _width(self) -> int:
        return max(self.scrollable_content_region.width, 1)

    def action_page_down(self) -> None:
        """Scroll by as many rows as there are lines for: the titles are none."""
        self.scroll_relative(y=max(self.size.height - 1, 1), animate=False)

    def action_page_up(self) -> None:
        """Scroll back by as many rows as there are lines for."""
        self.scroll_relative(y=-max(self.size.height - 1, 1), animate=False)

    def on_click(self, event: Click) -> None:
        """Sort by the title under the mouse."""
        if event.y == 0 and (sort := sort_at(self._columns, event.x)):
            self.post_message(self.Sorted(sort))


def _strip(widget: Widget, line: Text) -> Strip:
    strip = Strip(line.render(widget.app.console, end=""), line.cell_len)
    return strip.adjust_cell_length(widget.size.width)
