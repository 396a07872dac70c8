"""Locks and forks: a child starts with every lock of this package free, and consistent state behind them.

The forking thread takes all locks first, in one order, gates before the locks inside of them: a destructor
that the garbage collector runs with a gate held can take the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

GATES, INNER = 0, 1  # the order


class _Hook(NamedTuple):
    order: int
    before: Callable[[], object]
    in_parent: Callable[[], object]
    in_child: Callable[[], object]


_hooks: list[_Hook] = []


def at_fork(
    order: int,
    before: Callable[[], object],
    in_parent: Callable[[], object],
    in_child: Callable[[], object] | None = None,
) -> None:
    """Call functions around each fork: `before` in the order given, the others in the opposite one."""
    _hooks.append(_Hook(order, before, in_parent, in_child or in_parent))
    _hooks.sort(key=lambda hook: hook.order)


def _before() -> None:
    for hook in _hooks:
        hook.before()


def _in_parent() -> None:
    for hook in reversed(_hooks):
        hook.in_parent()


def _in_child() -> None:
    for hook in reversed(_hooks):
        hook.in_child()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
