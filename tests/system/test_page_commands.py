"""Every block of commands in README and `docs`: run here as it stands, or by another test, or why by none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shmclient
from support import WatchedHost

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = ROOT / "protocol" / "examples"
# By page, and the first words of the block.
RUN = {
    ("docs/native.md", "export PKG_CONFIG_PATH="),
    ("docs/native.md", "cc -I$(python -m"),
    ("docs/snapshots.md", "shmclient save index"),
    ("docs/tensors.md", "shmclient put --format"),
    ("docs/tutorial/tables.md", "shmhost ls"),
}
ELSEWHERE = {
    ("README.md", "shmhost serve &"): "test_readme.py",
    ("README.md", "docker compose -f"): "test_containers.py",
    ("docs/addresses.md", "shmhost doctor --processes"): "../commands/test_doctor_kinds.py",
    ("docs/addresses.md", "shmhost serve --window"): "../host/test_sources.py",
    ("docs/arenas.md", "shmclient exec --arena"): "test_arena_examples.py",
    ("docs/containers.md", "docker compose -f"): "test_containers.py",
    ("docs/fleet.md", "docker compose -f"): "test_containers.py",
    ("docs/tutorial/camera.md", "shmclient exec --arena"): "test_arena_examples.py",
    ("docs/tutorial/tables.md", "shmhost serve &"): "test_web_service.py",
}
BY_NONE = {
    ("README.md", "make demo"): "sets up an environment, and runs all tests, this one too",
    ("docs/index.md", "pip install"): "as `make test` does; the wheel has a test of its own",
    ("docs/performance.md", "make bench"): "takes minutes of an idle machine",
    ("docs/values.md", "python -m benchmarks.values"): "takes minutes of an idle machine",
    ("docs/releasing.md", "export SHMHOST_URL="): "needs Docker and the images of PyPA",
}


def blocks() -> list[tuple[str, str]]:
    """Return each block of commands, with its page."""
    return [
        (str(page.relative_to(ROOT)), match[1])
        for page in PAGES
        for match in re.finditer(r"^```console\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    ]


def block(page: str, start: str) -> str:
    (text,) = (text for name, text in blocks() if name == page and text.startswith(f"$ {start}"))
    return text


def test_no_block_is_left_out() -> None:
    """A new block is run here, or has an entry above: the test that runs it, or why there is none."""
    named = [*RUN, *ELSEWHERE, *BY_NONE]
    left = [
        (page, text)
        for page, text in blocks()
        if not any(page == name and text.startswith(f"$ {start}") for name, start in named)
    ]
    assert left == []
    assert [name for name in named if not any(text.startswith(f"$ {name[1]}") for _, text in blocks())] == []
    assert [name for name in ELSEWHERE.values() if not (Path(__file__).parent / name).exists()] == []


def run(host: WatchedHost, folder: Path, page: str, start: str) -> str:
    """Run a block of commands, and return what it prints."""
    lines = [line[2:] for line in block(page, start).splitlines() if line.startswith("$ ")]
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SHMHOST_SOCKET": host.socket_path,
        "COLUMNS": "80",
    }
    result = subprocess.run(
        ["sh", "-ec", "\n".join(lines)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@needs_compiler
@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="NOT TESTED: there is no pkg-config")
def test_reader_is_compiled_by_pkg_config(host: WatchedHost, tmp_path: Path) -> None:
    for name in ("reader.c", "word_index.h"):
        shutil.copy(EXAMPLES / name, tmp_path)
    run(host, tmp_path, "docs/native.md", "export PKG_CONFIG_PATH=")
    assert (tmp_path / "reader").exists()


@needs_compiler
def test_array_from_c_is_read(host: WatchedHost, shm: shmclient.Client, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "array.c", tmp_path)
    output = run(host, tmp_path, "docs/native.md", "cc -I$(python -m")
    assert shm.get("table").shape == (3, 4)
    assert output


def test_snapshot_is_saved_and_loaded(host: WatchedHost, shm: shmclient.Client, tmp_path: Path) -> None:
    shm.put("index", bytes(10_000))
    printed = run(host, tmp_path, "docs/snapshots.md", "shmclient save index")
    shown = [
        line for line in block("docs/snapshots.md", "shmclient save index").splitlines() if line[0] != "$"
    ]
    assert [re.sub(r"0x\w+|\d+", "N", line) for line in printed.splitlines()] == [
        re.sub(r"0x\w+|\d+", "N", line) for line in shown
    ]


def test_tensors_go_in_and_out(host: WatchedHost, shm: shmclient.Client, tmp_path: Path) -> None:
    shmclient.write_safetensors(tmp_path / "model.safetensors", {"w": np.ones(3, "f4")})
    run(host, tmp_path, "docs/tensors.md", "shmclient put --format")
    assert shm.get("llm/w").sum() == shm.get("llm")["w"].sum() == 3
    assert shmclient.read_safetensors(tmp_path / "model.safetensors")["w"].sum() == 3


def test_names_are_shown(host: WatchedHost, shm: shmclient.Client, tmp_path: Path) -> None:
    shm.put("trades", b"1")
    region = shm.open("trades")
    printed = run(host, tmp_path, "docs/tutorial/tables.md", "shmhost ls")
    assert printed.count("trades") >= 3
    region.close()
