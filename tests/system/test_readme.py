"""The README's program in C, its commands and links; test_pages.py runs its examples in Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import WatchedHost

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", README, re.DOTALL))


def test_readme_has_these_examples() -> None:
    assert sorted(EXAMPLES) == ["arena", "put_get", "words.c", "words.py"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_c_example_prints_the_words_of_the_python_example(host: WatchedHost, tmp_path: Path) -> None:
    """By the README's own commands, but for the host."""
    for name in ("words.py", "words.c"):
        (tmp_path / name).write_text(EXAMPLES[name])
    commands = re.search(r"```console\n\$ shmhost serve &\n(.*?)```", README, re.DOTALL)
    assert commands is not None
    lines = commands[1].splitlines()
    folder = Path(sys.executable).parent
    environ = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SHMHOST_SOCKET": host.socket_path,
        "PYTHONWARNINGS": "error",
    }
    script = "set -e\n" + "\n".join(line[2:] for line in lines if line.startswith("$ "))
    strict = 'cc() { command cc -std=c11 -Wall -Wextra -Wpedantic -Werror "$@"; }\n'
    output = subprocess.check_output(["sh", "-c", strict + script], cwd=tmp_path, env=environ, text=True)
    assert output.splitlines() == [line for line in lines if not line.startswith("$ ")] == ["hello", "world"]


def test_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake (\w+)", README)) - {"of"}
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert named
    assert named <= targets


def test_files_that_the_readme_links_to_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    missing = [link for link in links if not (Path(__file__).parents[2] / link).exists()]
    assert links
    assert missing == []
