"""The types of the public names, as users' checkers see them: mypy and pyright, both strict."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "typing" / "program.py"
MODULES = ("shmclient", "shmclient.aio", "shmclient.shared_memory", "shmhost", "shmhost.testing")
WRONG = "\nasync def wrong(shm: shmclient.aio.AsyncClient) -> None:\n    shm.put('a', 1, mode='rw')\n"
pytestmark = pytest.mark.timeout(300)


@functools.cache
def pyright_is_there() -> bool:
    """Whether pyright starts here: it needs Node.js, which it downloads where it is missing."""
    program = shutil.which("pyright", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None or shutil.which("node") is None:
        return False
    return (
        subprocess.run([program, "--version"], capture_output=True, timeout=120, check=False).returncode == 0
    )


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which pyright finds the packages, which it does not if they are editable."""
    if not pyright_is_there():
        pytest.skip("NOT TESTED by pyright: pip install pyright, and Node.js")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "paths.pth").write_text(f"{ROOT}\n{ROOT / 'protocol'}\n{sysconfig.get_path('purelib')}\n")
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder),
    }


def pyright(environ: dict[str, str], folder: Path, *arguments: str) -> dict[str, Any]:
    program = str(
        shutil.which("pyright", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    )
    done = subprocess.run(
        [program, "--outputjson", *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("package", ["shmclient", "shmprotocol"])
def test_types_of_all_public_names_are_complete(
    package: str, environ: dict[str, str], tmp_path: Path
) -> None:
    report = pyright(environ, tmp_path, "--verifytypes", package, "--ignoreexternal")["typeCompleteness"]
    incomplete = [
        f"{symbol['name']}: {symbol['diagnostics'][0]['message']}"
        for symbol in report["symbols"]
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    ]
    assert len(report["symbols"]) > 300
    assert (incomplete, report["completenessScore"]) == ([], 1)


def test_types_of_the_host_are_complete(environ: dict[str, str], tmp_path: Path) -> None:
    """Its inside counts, too: one attribute without an annotation takes part of the names that lead to it."""
    report = pyright(environ, tmp_path, "--verifytypes", "shmhost", "--ignoreexternal")["typeCompleteness"]
    messages = [
        f"{symbol['name']}: {diagnostic['message']}"
        for symbol in report["symbols"]
        for diagnostic in symbol["diagnostics"][:1]
        if "missing type annotation" in diagnostic["message"]
    ]
    assert report["completenessScore"] > 0.98, f"annotate these: {messages}"


def test_program_of_a_user_is_right_for_pyright(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.read_text("utf-8") + WRONG)
    problems = pyright(environ, tmp_path, "program.py")["generalDiagnostics"]
    first = len(PROGRAM.read_text("utf-8").splitlines())
    assert [problem for problem in problems if problem["range"]["start"]["line"] < first] == []
    assert any(problem["rule"] == "reportArgumentType" for problem in problems)


def test_program_of_a_user_is_right_for_mypy(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("NOT TESTED by mypy: pip install 'shmhost[lint]'")
    (tmp_path / "program.py").write_text(PROGRAM.read_text("utf-8") + WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "program.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": f"{ROOT}{os.pathsep}{ROOT / 'protocol'}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    first = len(PROGRAM.read_text("utf-8").splitlines())
    errors = [
        line for line in done.stdout.splitlines() if line.startswith("program.py:") and ": error: " in line
    ]
    assert [line for line in errors if int(line.split(":")[1]) <= first] == []
    assert any("[arg-type]" in line for line in errors), done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_program_uses_every_public_name(module: str) -> None:
    text = PROGRAM.read_text("utf-8")
    assert [name for name in importlib.import_module(module).__all__ if name not in text] == []
