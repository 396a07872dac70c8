"""The word index against a plain search, and the whole show as a user sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shmclient
import shmhost
from shmhost.demo import index as word_index

FILES = {
    "empty.py": b"",
    "plain.py": b"import os\nimport sys\n\nprint(os, os, sys)\n",
    "no_newline.py": b"import os",
    "bytes.py": b"\xff\xfe\x00 os \x80\nlatin \xe9os os_\n",
    "long.py": b"x " * 100_000 + b"\nos\n",
    "sub/deep.py": b"class Os:\r\n    os = 1\r\n",
}


def plain_places(word: str, folder: Path, files: list[Path]) -> list[tuple[str, int]]:
    """Search as simply as can be: every line, one pattern."""
    pattern = re.compile(rb"(?<![A-Za-z0-9_])" + word.encode() + rb"(?![A-Za-z0-9_])")
    return [
        (str(path.relative_to(folder)), number)
        for path in files
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1)
        if pattern.search(line)
    ]


def read_back(words: word_index.Words, wanted: list[str]) -> dict[str, list[tuple[str, int]]]:
    ffi = word_index.make_ffi()
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        with shm.create("words", words.size()) as builder:
            word_index.build(builder, ffi, words)
        root = shm.open("words").root(ffi, "struct word_index *")
        return {word: list(word_index.places(ffi, root, word.encode())) for word in wanted}


def collect(folder: Path, files: list[Path]) -> word_index.Words:
    words = word_index.Words()
    for words in word_index.read_words(folder, files):  # noqa: B007
        pass
    return words


def test_index_has_the_places_that_a_plain_search_finds(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files = sorted(tmp_path.rglob("*.py"))
    wanted = ["os", "import", "x", "Os", "os_", "print", "latin", "missing"]
    found = read_back(collect(tmp_path, files), wanted)
    assert found == {word: plain_places(word, tmp_path, files) for word in wanted}


def test_index_is_empty_when_there_are_no_files() -> None:
    assert read_back(word_index.Words(), ["os"]) == {"os": []}


def test_index_of_the_standard_library_agrees_with_a_plain_search() -> None:
    folder, files = word_index.standard_library()
    files = files[:: max(len(files) // 150, 1)]
    wanted = ["import", "def", "yield", "memoryview", "struct", "_", "Z"]
    found = read_back(collect(folder, files), wanted)
    assert found == {word: plain_places(word, folder, files) for word in wanted}
    assert len(found["import"]) > 100


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "SHMHOST_SOCKET"}
    return subprocess.run(
        [sys.executable, "-m", "shmhost.cli", "demo", *arguments],
        env=environment | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.timeout(120)
def test_demo_shows_one_address_and_stopped_writers() -> None:
    result = run_demo()
    assert (result.returncode, result.stderr) == (0, "")
    rows = re.findall(r"^ (publisher|Python|C) +(\d+) +(0x[0-9a-f]+) +([\d,]+)", result.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["publisher", "Python", "C"]
    assert len({row[1] for row in rows}) == 3
    assert len({row[2] for row in rows}) == 1
    assert all(int(row[3].replace(",", "")) > 1000 for row in rows)
    assert result.stdout.count("is ended by the kernel, with SIGSEGV.") == 2
    assert max(map(len, result.stdout.splitlines())) <= 80
    files = int(re.search(r": ([\d,]+) files", result.stdout)[1].replace(",", ""))  # type: ignore[index]
    assert files > 1500


@pytest.mark.timeout(120)
def test_demo_prints_the_places_of_a_word() -> None:
    result = run_demo("memfd_create")
    folder, files = word_index.standard_library()
    expected = plain_places("memfd_create", folder, files)
    shown = re.findall(r"^(\S+\.py):(\d+)  ", result.stdout, re.MULTILINE)
    assert result.returncode == 0
    assert [(name, int(line)) for name, line in shown] == expected[:40]
    assert f"occurs in {len(expected)} lines" in result.stdout


@pytest.mark.timeout(120)
def test_demo_ends_with_1_when_the_word_does_not_occur() -> None:
    assert run_demo("no" + "where" + "_to_be_found").returncode == 1
