"""Takeovers under load: `make takeovers` has a thousand of them."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_fails_and_nothing_is_lost_in_takeovers_under_load() -> None:
    command = [sys.executable, "-m", "benchmarks.takeovers", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed: 0; events lost: 0; repeated: 0" in done.stdout
