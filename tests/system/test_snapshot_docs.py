"""The examples of docs/snapshots.md and docs/growing.md are run, and the commands print what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import shmclient
from command_support import call
from support import WatchedHost

PAGES = Path(__file__).parents[2] / "docs"
PATTERN = r"<!-- example: (\S+) -->\n```python\n(.*?)```"
TEXT = "".join((PAGES / page).read_text("utf-8") for page in ("snapshots.md", "growing.md"))
EXAMPLES = dict(re.findall(PATTERN, TEXT, re.DOTALL))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_the_page_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXAMPLES[name])
    command = [sys.executable, "-W", "error", tmp_path / "example.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")


def test_commands_save_and_load(shm: shmclient.Client, host: WatchedHost, tmp_path: Path) -> None:
    environ = {"SHMHOST_SOCKET": host.socket_path}
    shm.put("a", b"x" * 5000, mode=0o640).close()
    address, file = shm.stat("a").address, str(tmp_path / "f")
    saved = call("shmclient", "save", "a", file, "--mode", "640", environ=environ)
    assert (saved.returncode, saved.stdout) == (0, f"a: {Path(file).stat().st_size} bytes in {file}\n")
    again = call("shmclient", "load", file, environ=environ)
    text = f"a generation {shm.stat('a').generation}: 5000 bytes at {address:#x}"
    assert (again.returncode, again.stdout) == (0, f"{text}: it is there already, with the same content\n")
    taken = call("shmclient", "load", file, "--name", "b", environ=environ)
    assert taken.returncode == 1
    assert re.search(r"are not free: 'a' \(.*\) has them.*shmhost", taken.stderr)
    moved = call("shmclient", "load", file, "--name", "b", "--anywhere", environ=environ)
    assert moved.returncode == 0
    assert shm.stat("b").address != address
    assert call("shmclient", "load", file, "--no-replace", "--name", "b", environ=environ).returncode == 1
    for name in ("a", "b"):
        shm.unlink(name)
    loaded = call("shmclient", "load", file, environ=environ)
    assert (loaded.returncode, shm.stat("a").address, shm.stat("a").mode) == (0, address, 0o640)
    missing = call("shmclient", "save", "none", file, environ=environ)
    assert missing.returncode == 4
