"""The live view of `top`, by textual: a heading, a table that scrolls, a filter, and the keys."""

from __future__ import annotations

import asyncio
import signal
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.types import AnimationLevel
from textual.widgets import Footer, Input

from shmhost.commands.top.feed import Feed, Sampler, notice_of
from shmhost.commands.top.figures import Sample, View, compare
from shmhost.commands.top.table import Lines, RegionTable
from shmhost.commands.top.view import State, choose, heading
from shmprotocol.errors import ShmError

_TABLE_LINES = 3  # that the heading leaves: titles, and two regions
_FOOTER_FROM = 12  # lines: a smaller screen has no room to say which keys there are
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Top(App[None]):
    """Shows samples until the user ends it, by a key or by a signal; the terminal is as before then."""

    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False
    CSS: ClassVar[str] = """
    Screen { overflow: hidden; }
    Input { height: 1; border: none; padding: 0; background: ansi_default; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "sort('name')", "name"),
        Binding("s", "sort('size')", "size"),
        Binding("l", "sort('leases')", "leases"),
        Binding("g", "sort('generation')", "generation"),
        Binding("t", "sort('rate')", "rate"),
        Binding("slash", "filter", "filter", key_display="/", priority=True),
        Binding("q", "quit", "quit"),
        # Before the filter has them: the app moves the focus, and only then handles the next key.
        Binding("enter", "keep", "keep", priority=True),
        Binding("escape", "all", "show all", priority=True),
        Binding("escape", "quit", show=False),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    class Sampled(Message):
        """The thread has figures, or an error."""

        def __init__(self, result: View | BaseException) -> None:
            super().__init__()
            self.result = result

    def __init__(self, state: State, feed: Feed, first: Sample, interval_s: float) -> None:
        super().__init__(ansi_color=True)  # the colours of the terminal, and none with $NO_COLOR
        self.theme = "ansi-dark"
        self.animation_level: AnimationLevel = "none"
        self._state, self._figures = state, compare(None, first)
        self._heading, self._footer = Lines(), Footer()
        self._table = RegionTable(self._figures, state)
        self._field = Input(placeholder="part of a name", select_on_focus=False)
        self._sampler = Sampler(feed, first, interval_s, self._tell)

    def _tell(self, result: View | BaseException) -> None:
        self.post_message(self.Sampled(result))  # from any thread

    def compose(self) -> ComposeResult:
        """Make the widgets, from top to bottom."""
        yield from (self._heading, self._table, self._field, self._footer)

    def on_mount(self) -> None:
        """Begin to take samples."""
        loop = asyncio.get_running_loop()
        for number in _ENDS:  # textual knows the key Ctrl-C alone, and SIGTERM would leave its screen there
            loop.add_signal_handler(number, self.exit)
        self._field.display = False
        self._table.focus()
        self._sampler.start()
        self._show()

    def on_unmount(self) -> None:
        """Take no more samples."""
        self._sampler.end()

    def on_resize(self) -> None:
        """Fit the lines to another size."""
        self.call_after_refresh(self._show)

    def on_top_sampled(self, message: Sampled) -> None:
        """Show figures, or say why there are none."""
        result = message.result
        if isinstance(result, ShmError):
            self._state = self._state._replace(notice=notice_of(result))
        elif isinstance(result, BaseException):
            raise result
        else:
            self._figures, self._state = result, self._state._replace(notice="")
        self._show()

    def on_region_table_sorted(self, message: RegionTable.Sorted) -> None:
        """Sort by a title that was clicked."""
        self.action_sort(message.sort)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the user types."""
        self._state = self._state._replace(filter=event.value.strip())
        self._table.scroll_home(animate=False)
        self._show()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the keys of the filter while the user types it, and its `/` as text."""
        if action == "all":
            return self._field.has_focus or bool(self._state.filter)
        return self._field.has_focus == (action == "keep") if action in ("keep", "filter") else True

    def action_sort(self, key: str) -> None:
        """Sort by a column; by the same one again: reverse."""
        self._state = choose(self._state, key)
        self._show()

    def action_filter(self) -> None:
        """Let the user type a part of the names to be shown."""
        self._field.display = True
        self.screen.set_focus(self._field)

    def action_keep(self) -> None:
        """Give the keys back to the table; the filter stays."""
        self._field.display = False
        self.screen.set_focus(self._table)

    def action_all(self) -> None:
        """End the filter."""
        self._field.value = ""
        self.action_keep()

    def _show(self) -> None:
        width, height = self.size
        footer = height >= _FOOTER_FROM
        self._footer.display = footer
        lines = heading(self._figures, self._state, width, max(height - footer - _TABLE_LINES, 1))
        self._heading.show(lines)
        self._table.show(self._figures, self._state)
