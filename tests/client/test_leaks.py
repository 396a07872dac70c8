"""A pinner that is lost with its pins tells so, with the line that made it. See docs/parity.md."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pinning_support import FFI
from shmclient import Pinner
from shmclient._pins import pinner as pinning
from support import in_child

# --- leaks


@pytest.fixture
def leaks(monkeypatch: pytest.MonkeyPatch) -> list[pinning.Leak]:
    reports: list[pinning.Leak] = []
    monkeypatch.setattr(pinning, "on_leak", reports.append)
    return reports


def test_leak_is_told_with_the_line_that_made_the_pinner_and_nothing_dangles(
    leaks: list[pinning.Leak],
) -> None:
    buffer, slot, before = bytearray(b"abc"), FFI.new("void **"), pinning.leaked()
    pinner = Pinner()
    line = sys._getframe().f_lineno - 1
    pinner.pin(buffer).store(slot)
    pinner.iovec([buffer])
    del pinner
    gc.collect()
    assert leaks == [pinning.Leak(__file__, line, 2)]
    assert pinning.leaked() == before + 2
    with pytest.raises(BufferError):
        buffer.append(1)
    assert FFI.buffer(slot[0], 3)[:] == b"abc"


def test_pinner_that_holds_nothing_leaks_nothing(leaks: list[pinning.Leak]) -> None:
    Pinner()
    used = Pinner()
    used.pin(b"abc")
    used.unpin()
    del used
    gc.collect()
    assert leaks == []


def test_leak_is_a_resource_warning_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Pinner().pin(b"abc")
        gc.collect()
    line = sys._getframe().f_lineno - 2
    assert [(item.category, item.filename, item.lineno) for item in caught] == [
        (ResourceWarning, __file__, line)
    ]
    assert f"{__file__}:{line} was collected with 1 pins" in caplog.text


STRICT = "from shmclient import Pinner; {}\nprint('alive')"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("Pinner(strict=True).pin(b'abc')", -signal.SIGABRT),
        ("p = Pinner(strict=True); p.pin(b'abc'); p.unpin(); del p", 0),
        ("Pinner().pin(b'abc')", 0),
        ("p = Pinner(strict=True); p.pin(b'abc')", 0),  # the end of the process is no leak
    ],
)
def test_leak_ends_the_process_in_strict_mode_alone(program: str, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STRICT.format(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)
    assert result.returncode == code, result.stderr
    assert ("alive" in result.stdout) == (code == 0)
    assert ("was collected with 1 pins" in result.stderr) == (
        program.endswith("pin(b'abc')") and " p." not in program
    )


# --- threads and forks


def test_child_of_a_fork_reports_no_leak_of_its_parent(leaks: list[pinning.Leak]) -> None:
    held = [Pinner()]
    held[0].pin(b"abc")

    def child() -> None:
        held.clear()
        gc.collect()
        assert leaks == []

    assert in_child(child) == 0
    held[0].unpin()
