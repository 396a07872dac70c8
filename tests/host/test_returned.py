"""What the kernel says of objects that are handed back, or were left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shmhost.machine import returned
from shmhost.machine.returned import Returnables
from shmprotocol.wire.names import Backend
from support import count_descriptors


def test_object_that_was_left_and_cannot_be_identified_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identify(_descriptor: int) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "x").touch()
    names: Any = SimpleNamespace(path_of=lambda name: tmp_path / name)
    record: Any = SimpleNamespace(backend=Backend.SHM, name="x")
    monkeypatch.setattr(returned.builtins, "identify", identify)
    before = count_descriptors()
    assert Returnables(names).left_by(record) is None
    assert count_descriptors() == before
