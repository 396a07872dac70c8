"""Free-threaded CPython: the compiled part needs the GIL, and has it switched on when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import pytest

pytestmark = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has its GIL"
)
PROGRAM = """
import sys
before = sys._is_gil_enabled()
import shmclient
print(before, sys._is_gil_enabled())
"""


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    command = [sys.executable, *options, "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_import_switches_the_gil_on_and_says_so() -> None:
    ended = run()
    assert ended.stdout == "False True\n"
    assert "RuntimeWarning" in ended.stderr
    assert "shmprotocol.native._native" in ended.stderr


def test_interpreter_that_has_its_gil_says_nothing() -> None:
    ended = run("-X", "gil=1")
    assert (ended.stdout, ended.stderr) == ("True True\n", "")
