"""The cases of jax, in a process of their own: once imported it warns at each fork, and tests fork."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


def test_cases_of_jax_pass() -> None:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed: pip install jax")
    cases = Path(__file__).parent / "jax_cases.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
