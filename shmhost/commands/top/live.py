"""`top`: once as text or JSON, or live where there is a terminal and textual is installed."""

from __future__ import annotations

import os
import sys
import time

from rich.console import Console

from shmhost.commands.options import print_json
from shmhost.commands.top.feed import Feed
from shmhost.commands.top.figures import compare
from shmhost.commands.top.view import State, as_dict, render
from shmprotocol.cli import extra_needed

_WIDTH = 80  # columns of a plain view, for mails and logs


def run(path: str, interval_s: float, sort: str, *, as_json: bool, once: bool) -> None:
    """Show a host until the user quits; without a terminal, with `as_json` or with `once`, only once.

    HostGone if no host runs at the start. A host that stops later is waited for.
    """
    interval_s = max(0.1, interval_s)  # in this order, so that NaN gives 0.1
    state = State(path, sort, reverse=sort != "name")
    if not (as_json or once) and _has_terminal():
        _live(path, state, interval_s)
        return
    with Feed(path) as feed:
        first = feed.take()
        time.sleep(interval_s)
        view = compare(first, feed.take())
    if as_json:
        print_json(as_dict(view, state))
    else:
        console = Console()
        console.print(render(view, state, min(console.width, _WIDTH)), crop=False)


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _live(path: str, state: State, interval_s: float) -> None:
    with extra_needed("shmhost", "the live view needs", ", or use --once"):
        from shmhost.commands.top.app import Top
    for name in ("COLUMNS", "LINES"):  # textual takes them for the size, also after it has changed
        os.environ.pop(name, None)
    feed = Feed(path)
    top = Top(state, feed, feed.take(), interval_s)
    top.run()
    if top.return_code:  # a fault, which textual has printed
        sys.exit(top.return_code)
