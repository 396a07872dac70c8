"""Progress of what takes longer than a moment: on a terminal alone, and gone when it is done.

For the command line: nothing else imports this, since it loads rich.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

DELAY_S = 0.5  # what is over by then shows nothing


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show what is waited for, and for how long already, while the block runs."""
    with _shown_later(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
        progress.add_task(text, total=None)
        yield


@contextlib.contextmanager
def transferring(text: str, size: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar of `size` bytes, or how many have come where that is not known.

    The block calls what it is given with the bytes that are done, from any thread.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with _shown_later(*columns) as progress:
        task = progress.add_task(text, total=size)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def _shown_later(*columns: ProgressColumn) -> Iterator[Progress]:
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True)
    if not console.is_terminal:
        yield progress
        return
    timer = threading.Timer(DELAY_S, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield progress
    finally:
        timer.cancel()
        timer.join()
        if progress.live.is_started:
            progress.stop()
