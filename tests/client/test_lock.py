"""The lock that `with` takes and releases as a whole."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from shmclient._process.lock import new_lock


def interrupted_at(number: int) -> Callable[[FrameType, str, Any], None]:
    """Return a profiler that raises KeyboardInterrupt at the n-th place where a signal's handler can run."""
    places = itertools.count(1)

    def profile(_frame: FrameType, event: str, _argument: Any) -> None:
        if event in ("call", "c_return") and next(places) == number:
            sys.setprofile(None)
            raise KeyboardInterrupt

    return profile


@pytest.mark.parametrize("depth", [0, 1])
def test_lock_is_free_after_an_interrupt_anywhere(depth: int) -> None:
    lock = new_lock()

    def use() -> None:
        with lock:
            pass

    for number in itertools.count(1):
        for _ in range(depth):
            lock.acquire()
        sys.setprofile(interrupted_at(number))
        try:
            use()
        except KeyboardInterrupt:
            assert lock._recursion_count() == depth
        else:
            break
        finally:
            sys.setprofile(None)
        for _ in range(depth):
            lock.release()
    assert number > 1


def test_lock_is_reentrant() -> None:
    lock = new_lock()
    with lock, lock:
        assert lock._recursion_count() == 2
    assert not lock._is_owned()
