"""The README's examples are run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cffi
import pytest

import shmclient
import shmhost

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", README, re.DOTALL))


def test_readme_has_the_examples_that_are_tested_here() -> None:
    assert sorted(EXAMPLES) == ["build_list", "fill_array", "pins", "put_get", "words.c"]


@pytest.mark.parametrize("name", ["put_get", "fill_array", "build_list", "pins"])
def test_python_example_runs(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[name]], capture_output=True, text=True, timeout=50
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_c_example_prints_the_words_of_the_python_example(tmp_path: Path) -> None:
    (tmp_path / "words.c").write_text(EXAMPLES["words.c"])
    include = subprocess.check_output([sys.executable, "-m", "shmprotocol", "--include"], text=True).strip()
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{include}"]
    subprocess.run(["cc", *flags, "words.c", "-o", "words"], cwd=tmp_path, check=True)

    ffi = cffi.FFI()
    ffi.cdef("struct node { const struct node *next; const char *word; };")
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        with shm.create("words", 4096) as builder:
            head = ffi.NULL
            for word in (b"world", b"hello"):
                head = builder.new(ffi, "struct node *", {"next": head, "word": builder.bytes(word)})
            builder.set_root(head)
        command = [sys.executable, "-m", "shmclient", "exec", "--socket", host.socket_path]
        output = subprocess.check_output([*command, "--region", "words", "--", tmp_path / "words"], text=True)
    assert output == "hello\nworld\n"


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
