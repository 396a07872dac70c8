"""The waiting half of `top`: asks the host for samples and shows them until the user ends it."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from rich.console import Console

from shmhost.commands.options import print_json
from shmhost.commands.top.figures import Sample, compare
from shmhost.commands.top.keys import Keyboard, draw, full_screen
from shmhost.commands.top.view import State, as_dict, press, render
from shmprotocol.errors import HostGone, ShmError
from shmprotocol.wire.query import Query

_WIDTH = 80  # columns of a plain view, for mails and logs


class Feed:
    """Samples of a host, over one connection for as long as that lasts. A context manager."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._query: Query | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._query is not None:
            self._query.__exit__()
            self._query = None

    def take(self) -> Sample:
        """Return a sample. After any error the next call connects again."""
        try:
            return self._ask()
        except BaseException:
            self.__exit__()
            raise

    def _ask(self) -> Sample:
        if self._query is None:
            self._query = Query(self._path).__enter__()
        regions = tuple(inspection.info for inspection in self._query.inspect(""))
        return Sample(self._query.measure(), regions, time.monotonic_ns(), time.time_ns())


def run(path: str, interval_s: float, sort: str, *, as_json: bool, once: bool) -> None:
    """Show a host until the user quits; without a terminal, with `as_json` or with `once`, only once.

    HostGone if no host runs at the start. A host that stops later is waited for.
    """
    interval_s = max(0.1, interval_s)  # in this order, so that NaN gives 0.1
    state = State(path, sort, reverse=sort != "name")
    with Feed(path) as feed:
        first = feed.take()
        if not (as_json or once) and _has_terminal():
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C and SIGTERM are ways to end it
                _live(feed, first, state, interval_s)
            return
        time.sleep(interval_s)
        view = compare(first, feed.take())
    if as_json:
        print_json(as_dict(view, state))
    else:
        console = Console()
        console.print(render(view, state, min(console.width, _WIDTH), None), crop=False)


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _live(feed: Feed, sample: Sample, state: State, interval_s: float) -> None:
    console = Console(force_terminal=True)
    view, due = compare(None, sample), time.monotonic() + interval_s
    with Keyboard(sys.stdin.fileno()) as keyboard, full_screen(console):
        while True:
            size = os.get_terminal_size(sys.stdout.fileno())
            console.size = (size.columns or 80, size.lines or 24)  # 0 where the terminal does not know
            draw(console, render(view, state, console.width, console.height))
            for key in keyboard.wait(due - time.monotonic()):
                following = press(state, key)
                if following is None:
                    return
                state = following
            if time.monotonic() < due:
                continue
            due = time.monotonic() + interval_s
            try:
                new = feed.take()
            except ShmError as error:
                gone = isinstance(error, HostGone)
                text = "no host: waiting for it" if gone else f"{error}; trying again"
                state = state._replace(notice=text)
            else:
                view, sample, state = compare(sample, new), new, state._replace(notice="")
