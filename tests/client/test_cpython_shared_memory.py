"""CPython's own tests of `multiprocessing.shared_memory`, with our module in its place."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import WatchedHost

PROGRAM = Path(__file__).parents[1] / "cpython_shared_memory.py"
LEFT_OUT = {
    "test_shared_memory_cleaned_after_process_termination": (
        "wants the warning of a resource tracker, and there is none; "
        "test_segment_goes_with_its_killed_maker_and_without_a_warning has the rest of it"
    ),
    "test_shared_memory_tracking": (
        "wants that the end of a program that only opened a segment destroys it (from Python 3.13 on); "
        "test_end_of_a_user_destroys_nothing holds the opposite"
    ),
}


@pytest.mark.skipif(
    importlib.util.find_spec("test") is None
    or importlib.util.find_spec("test._test_multiprocessing") is None,
    reason="this Python has no `test` package (Debian: libpython3-testsuite): CPython's tests did NOT run",
)
@pytest.mark.timeout(180)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_standard_librarys_own_tests_pass(host: WatchedHost, method: str, tmp_path: Path) -> None:
    environ = os.environ | {"SHMHOST_SOCKET": host.socket_path}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), method, *LEFT_OUT],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    results = [line.split(" ", 2) for line in done.stdout.splitlines() if line.count(" ")]
    by_kind = {kind: [r[1] for r in results if r[0] == kind] for kind in ("passed", "skipped", "failed")}
    text = f"CPython {sys.version.split()[0]}, {method}: {len(results)} run, " + ", ".join(
        f"{len(names)} {kind}" for kind, names in by_kind.items()
    )
    print(text, *(f"left out: {name}: {reason}" for name, reason in LEFT_OUT.items()), sep="\n")
    assert done.returncode == 0, text + "\n" + done.stderr
    assert by_kind["failed"] == []
    assert set(by_kind["skipped"]) <= set(LEFT_OUT)
    assert len(by_kind["passed"]) >= 12
    assert "resource_tracker" not in done.stderr
