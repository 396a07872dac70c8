"""What the kernel says of objects that are handed back, or were left behind."""

from __future__ import annotations

import errno
import os
import select
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from held_support import blocked_write
from shmhost.core.objects import Memfd
from shmhost.machine import returned
from shmhost.machine.returned import Returnables
from shmprotocol.wire.names import Backend, Seal
from support import as_nobody, count_descriptors, needs_root, wait_until

NOBODY = 65534


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


@needs_root
def test_shared_object_whose_lock_is_held_comes_back_later_to_a_host_that_is_not_root() -> None:
    memory = Memfd("x", 8192)
    memory.publish(b"H" * 4096, Seal.SHARED)
    os.fchown(memory.writer(), NOBODY, NOBODY)  # as what a host of this user has made
    record: Any = SimpleNamespace(
        kind=1, backend=Backend.MEMFD, capacity=8192, seal=Seal.SHARED, extent=0, owner=SimpleNamespace(uid=1)
    )
    listener, teller = os.pipe()

    def take_back() -> None:
        returnables = Returnables(SimpleNamespace())  # type: ignore[arg-type]

        def is_back() -> bool:
            try:
                taken = returnables.adopt(record, memory.reader())
            except BlockingIOError:
                return False
            return os.pwrite(taken.writer(), b"back", 4096) == 4

        assert not is_back()
        assert not is_back()
        os.write(teller, b"1")
        wait_until(is_back)
        assert os.fstat(memory.reader()).st_mode & 0o777 == 0o444

    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(as_nobody(take_back)))
    with blocked_write(memory.writer()):
        thread.start()
        wait_until(lambda: codes or select.select([listener], [], [], 0)[0])
    thread.join()
    assert codes == [0]
    assert os.pread(memory.reader(), 4, 4096) == b"back"
    memory.close()
    for descriptor in (listener, teller):
        os.close(descriptor)
