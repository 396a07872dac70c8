"""Locks and forks: a child starts with every lock of this package free, and consistent state behind them.

The forking thread takes all locks first, in one order, gates before the locks inside of them: a destructor
that the garbage collector runs with a gate held can take the others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from shmprotocol.tuples import NamedTuple

GATES, INNER = 0, 1  # the order


class _Hook(NamedTuple):
    order: int
    before: Callable[[], object]
    in_parent: Callable[[], object]
    in_child: Callable[[], object]


_hooks: tuple[_Hook, ...] = ()
# The hooks of the forks under way, by thread: a module that is imported while another thread forks brings its
# own in between, and that thread has not taken its lock, and must not release it.
_begun: dict[int, tuple[_Hook, ...]] = {}


def at_fork(
    order: int,
    before: Callable[[], object],
    in_parent: Callable[[], object],
    in_child: Callable[[], object] | None = None,
) -> None:
    """Call functions around each fork: `before` in the order given, the others in the opposite one."""
    global _hooks  # replaced as a whole: another thread may be going through it
    hook = _Hook(order, before, in_parent, in_child or in_parent)
    _hooks = tuple(sorted([*_hooks, hook], key=lambda each: each.order))


def _before() -> None:
    hooks = _begun[threading.get_ident()] = _hooks
    for hook in hooks:
        hook.before()


def _in_parent() -> None:
    for hook in reversed(_begun.pop(threading.get_ident(), ())):
        hook.in_parent()


def _in_child() -> None:
    hooks = _begun.pop(threading.get_ident(), ())  # the one thread here has the number that it had
    _begun.clear()
    for hook in reversed(hooks):
        hook.in_child()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
