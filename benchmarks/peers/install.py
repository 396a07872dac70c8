"""Installs the extra `bench`, one distribution after the other, and keeps why some could not be."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from benchmarks.processes import ROOT

REASONS = Path(sys.prefix) / "peers-absent.json"


def reasons() -> dict[str, str]:
    """Return why distributions could not be installed, by name."""
    by_name: dict[str, str] = json.loads(REASONS.read_text("utf-8")) if REASONS.exists() else {}
    return by_name


def main() -> int:
    """Install; print what failed. The exit code is 0, because the other peers can be measured."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    absent = {}
    for requirement in project["optional-dependencies"]["bench"]:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
            absent[requirement] = (errors or ["pip failed"])[-1].removeprefix("ERROR: ")
            print(f"{requirement} cannot be installed: {absent[requirement]}", file=sys.stderr)
    REASONS.write_text(json.dumps(absent), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
