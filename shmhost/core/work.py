"""The system calls of a session: it yields each as a Work, and gets the result sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Work:
    """A call whose result is sent into the generator.

    `is_quick`: no client can make it wait. `is_retry`: an earlier attempt failed, so first attempts go ahead.
    """

    call: Callable[[], Any]
    is_quick: bool
    is_retry: bool = False


Steps = Generator[Work, Any, None]
