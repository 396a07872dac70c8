"""Remove the data files of coverage that are damaged, and say so: `coverage combine` would end at the first.

Coverage writes without a journal: what is killed or runs out of room meanwhile leaves a part of its file.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path


def damage(path: Path) -> str:
    """Return what is wrong with a database, or nothing."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            database.execute("SELECT version FROM coverage_schema").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if verdict == "ok" else " ".join(verdict.split())


def main() -> None:
    damages = {path: damage(path) for path in Path.cwd().glob(".coverage.*")}
    for path, reason in damages.items():
        if reason:
            print(f"left out: {path.name} ({path.stat().st_size} bytes): {reason}")
            path.unlink()


if __name__ == "__main__":
    main()
