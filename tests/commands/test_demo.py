"""The word index against a plain search, and the whole show as a user sees it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import shmclient
import shmhost
from shmhost.commands.demo import index as word_index
from shmhost.commands.demo import processes, run
from support import wait_until

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


def read_back(words: word_index.Words, queries: list[str]) -> dict[str, list[tuple[str, int]]]:
    ffi = word_index.make_ffi()
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        with shm.create("words", words.size()) as builder:
            word_index.build(builder, ffi, words)
        root = shm.open("words").root(ffi, "struct word_index *")
        return {word: list(word_index.places(ffi, root, word.encode())) for word in queries}


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
    queries = ["os", "import", "x", "Os", "os_", "print", "latin", "missing"]
    results = read_back(collect(tmp_path, files), queries)
    assert results == {word: plain_places(word, tmp_path, files) for word in queries}


def test_index_is_empty_when_there_are_no_files() -> None:
    assert read_back(word_index.Words(), ["os"]) == {"os": []}


def test_index_of_the_standard_library_agrees_with_a_plain_search() -> None:
    folder, files = word_index.standard_library()
    files = files[:: max(len(files) // 150, 1)]
    queries = ["import", "def", "yield", "memoryview", "struct", "_", "Z"]
    results = read_back(collect(folder, files), queries)
    assert results == {word: plain_places(word, folder, files) for word in queries}
    assert len(results["import"]) > 100


def test_index_leaves_out_what_is_no_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.py").write_text("import os\n")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "other.py").write_text("import os\n")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    folder, files = word_index.standard_library()
    assert (folder, files) == (tmp_path, [tmp_path / "good.py"])
    words = collect(folder, [*files, tmp_path / "gone.py"])
    assert (words.files, words.unreadable) == ([b"good.py"], 1)


CRASH = "import os; os.kill(os.getpid(), 11)"
REPORT = "import json; print(json.dumps({'address': 4096}), flush=True); "


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        (REPORT + CRASH, ""),
        (CRASH, "exit code -11, before it wrote"),
        (REPORT.replace("4096", "8192") + CRASH, "exit code -11, before it wrote"),
        (REPORT, "exit code 0"),
        (REPORT + "import sys; sys.exit('written')", "exit code 1: written"),
    ],
)
def test_a_write_counts_as_stopped_only_when_sigsegv_ends_a_process_that_has_the_region(
    program: str, outcome: str
) -> None:
    assert processes.outcome_of_write([sys.executable, "-c", program], os.environ, 4096) == outcome


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("", "ended early, with code 0"),
        ("print('{\"missed\": 3}')", "missed 3 words"),
        ("import sys; sys.stdin.read()", "has not reported"),
    ],
)
def test_a_reader_that_does_not_report_is_an_error(
    program: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "WAIT_S", 0.5 if "stdin" in program else 20.0)
    with (
        processes.running([sys.executable, "-c", program], os.environ) as child,
        pytest.raises(shmclient.ShmError, match=message),
    ):
        processes.report_of(child)


def test_measure_refuses_an_address_at_which_nothing_is_mapped() -> None:
    report = {"pid": os.getpid(), "address": 4096, "lookups_per_s": 1.0}
    with pytest.raises(shmclient.ShmError, match="nothing mapped"):
        processes.measure("this", report)


def show(
    folder: Path, monkeypatch: pytest.MonkeyPatch, word: str | None = None, *, terminal: bool = False
) -> tuple[int, str]:
    """Run the demo in this process over the files of a folder; return its exit code and its output."""
    monkeypatch.setattr(word_index, "standard_library", lambda: (folder, sorted(folder.rglob("*.py"))))
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=terminal, color_system=None)
    return run.demo(word, console), output.getvalue()


def test_demo_says_so_when_there_are_few_files_and_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.py").write_text("import os\n")
    monkeypatch.setattr(run, "BENCH_S", 0.05)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, output = show(tmp_path, monkeypatch)
    assert code == 0
    assert "only 1 files" in output
    assert "No C compiler" in output
    assert re.findall(r"^ (\w+) +\d+ +0x", output, re.MULTILINE) == ["publisher", "Python"]
    assert output.count("SIGSEGV") == 1


def test_demo_fails_when_the_readers_have_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(who: str, report: dict[str, Any]) -> processes.Reader:
        """As smaps would be, had each process pages and an address of its own."""
        size = 1 << 30
        return processes.Reader(who, report["pid"], report["pid"] * 4096, 1.0, 0, size, size)

    (tmp_path / "one.py").write_text("import os\n")
    monkeypatch.setattr(run, "BENCH_S", 0.05)
    monkeypatch.setattr(run, "measure", copied)
    code, output = show(tmp_path, monkeypatch)
    assert code == 1
    assert "NOT SO: The base address is the same" in output
    assert "one copy" in output.split("NOT SO")[2]


@pytest.mark.parametrize("word", ["[/]", "[red]x", "\udcff", "h\xe9llo", "", "a b", "--write"])
def test_demo_takes_any_word(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = show(tmp_path, monkeypatch, word)
    assert code == 1
    assert output.splitlines()[-1] == f"{word!r} occurs in 0 lines"


def test_demo_prints_source_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "other = word" + " + 1" * 50
    (tmp_path / "[x].py").write_text(f"word = '[/] [bold]'\n\t{long}\n" + "word\n" * 60)
    code, output = show(tmp_path, monkeypatch, "word")
    assert code == 0
    assert f"[x].py:1  word = '[/] [bold]'\n[x].py:2  {long}\n" in output  # whole, since it is no terminal
    assert len(re.findall(r"^\[x\]\.py:", output, re.MULTILINE)) == run.MAX_PLACES
    assert output.splitlines()[-2:] == ["... and 22 more", "'word' occurs in 62 lines"]


def test_demo_gives_a_place_one_row_of_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.py").write_text("other = word" + " + 1" * 50)
    code, output = show(tmp_path, monkeypatch, "word", terminal=True)
    rows = [line for line in output.splitlines() if line.startswith("x.py:1  other")]
    assert code == 0
    assert [(len(row), row[-1]) for row in rows] == [(80, "…")]
    assert output.splitlines()[-1] == "'word' occurs in 1 line"


COMMAND = [sys.executable, "-m", "shmhost", "demo"]
# So that a core file would be seen, where the kernel writes them to the folder of the process.
WITH_CORES = ["sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh"]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "SHMHOST_SOCKET"} | {"COLUMNS": "80"}


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*WITH_CORES, *COMMAND, *arguments]
    return subprocess.run(command, env=environment(), cwd=folder, capture_output=True, text=True, timeout=110)


@pytest.mark.timeout(120)
def test_demo_shows_one_address_and_stopped_writers(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    result = run_demo(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    rows = re.findall(r"^ (publisher|Python|C) +(\d+) +(0x[0-9a-f]+) +([\d,]+)", result.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["publisher", "Python", "C"]
    assert len({row[1] for row in rows}) == 3
    assert len({row[2] for row in rows}) == 1
    assert all(int(row[3].replace(",", "")) > 1000 for row in rows)
    assert result.stdout.count("process that writes to it, with SIGSEGV.") == 2
    assert (result.stdout.count("✓"), result.stdout.count("NOT SO")) == (5, 0)
    assert max(map(len, result.stdout.splitlines())) <= 80
    files = int(re.search(r": ([\d,]+) files", result.stdout)[1].replace(",", ""))  # type: ignore[index]
    assert files == len(word_index.standard_library()[1])
    assert ("There are only" in result.stdout) == (files < 1500)
    assert list(tmp_path.iterdir()) == []  # no core file


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_signal_inside_of_popen_still_ends_the_child(
    number: signal.Signals, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        """As if the signal came between the fork and the end of Popen()."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            started.append(self)
            signal.raise_signal(number)

    monkeypatch.setattr(processes.subprocess, "Popen", Interrupted)
    program = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(error), processes.ending_by_signal(), processes.running(program, os.environ):
        pytest.fail("the signal is lost")
    assert [child.returncode for child in started] == [-signal.SIGKILL]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signal_that_a_destructor_swallows_takes_effect_at_the_end() -> None:
    class Swallowing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    went_on = False
    with pytest.raises(SystemExit, match="143"), processes.ending_by_signal():
        Swallowing()
        went_on = True
    assert went_on


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + 15)])
def test_demo_leaves_no_process_and_no_file_when_it_is_ended(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    pipe = subprocess.PIPE
    temporary = environment() | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        COMMAND, env=temporary, stdout=pipe, stderr=pipe, text=True, process_group=0
    ) as child:
        wait_until(lambda: "shmhost.commands.demo.reader" in str(children(child.pid)), 60)
        started = children(child.pid)
        os.killpg(child.pid, number)  # as a terminal does for Ctrl-C: to the group, with what it started
        _, errors = child.communicate(timeout=20)
    assert child.returncode == code
    assert "Traceback" not in errors
    assert [pid for pid in started if os.path.exists(f"/proc/{pid}")] == []
    assert list(tmp_path.iterdir()) == []


def children(pid: int) -> dict[int, str]:
    """Return the processes that a process has started, and their commands."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {}
    for child in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            commands[int(child)] = Path(f"/proc/{child}/cmdline").read_text()
    return commands


@pytest.mark.timeout(120)
def test_demo_prints_the_places_of_a_word(tmp_path: Path) -> None:
    result = run_demo(tmp_path, "memfd_create")
    folder, files = word_index.standard_library()
    expected = plain_places("memfd_create", folder, files)
    shown = re.findall(r"^(\S+\.py):(\d+)  ", result.stdout, re.MULTILINE)
    assert result.returncode == (0 if expected else 1)
    assert [(name, int(line)) for name, line in shown] == expected[: run.MAX_PLACES]
    assert f"occurs in {len(expected)} lines" in result.stdout
