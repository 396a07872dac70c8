"""Commands in this process: their output and exit code, without the third of a second of a new one."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

import shmclient._commands.cli
import shmhost.cli
from settings_support import NAMES

MAINS: dict[str, Callable[[], None]] = {
    "shmhost": shmhost.cli.main,
    "shmclient": shmclient._commands.cli.main,
}


def call(package: str, *arguments: str, environ: dict[str, str]) -> CompletedProcess[str]:
    """Run a command as `python -m` does, in a terminal of 80 columns and with no other settings."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SHMHOST_CONFIG", *(f"SHMHOST_{name.upper()}" for name in NAMES)):
            patch.delenv(name, raising=False)
        for name, text in {"COLUMNS": "80", "TERM": "dumb", **environ}.items():
            patch.setenv(name, text)
        patch.setattr("sys.argv", [package, *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _code(MAINS[package])
    return CompletedProcess([package, *arguments], code, out.getvalue(), err.getvalue())


def _code(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
