"""The libraries of the commands are the extra `cli`: programs that import the packages run without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIBRARIES = ("click", "rich", "rich_click")
USE = """
import shmclient, shmclient.aio, shmhost
with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
    shm.put("x", b"1")
    print(bytes(shm.get("x")).decode())
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter that finds none of the libraries."""
    block = f"import sys; sys.modules.update(dict.fromkeys({LIBRARIES!r}))"
    command = [sys.executable, "-c", f"{block}\n{program}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


def test_packages_work_without_the_libraries_of_the_commands() -> None:
    result = run(USE)
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n", "")


@pytest.mark.parametrize("package", ["shmhost", "shmclient"])
def test_command_says_what_to_install_without_its_libraries(package: str) -> None:
    result = run(
        f"import runpy; sys.argv = [{package!r}, 'ls']; runpy.run_module({package!r}, None, '__main__')"
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"{package}: the commands need rich_click: pip install 'shmhost[cli]'\n"


def test_other_missing_modules_are_faults() -> None:
    hide = "sys.modules['shmhost.settings'] = None; import shmhost.__main__ as m; m.main()"
    result = run(f"for name in {LIBRARIES!r}: del sys.modules[name]\nimport shmprotocol\n{hide}")
    assert "ModuleNotFoundError" in result.stderr
