"""A region at an address that ThreadSanitizer wants for itself: a refusal, and not the end of the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
import shmhost
from native_support import STRICT

SECOND = ((0x510000000000, 4 << 40),)  # the window that ThreadSanitizer does not leave free
PYTHON = """
import sys, shmclient
with shmclient.connect(sys.argv[1]) as shm:
    try:
        shm.get("x")
    except shmclient.AddressConflict as error:
        print("refused")
    print(bytes(shm.get("x", anywhere=True)))
"""
NATIVE = """
#include "shm_abi.h"
#include <stdio.h>
int main(void)
{
        const struct shm_region_header *header;

        return printf("%d\\n", shm_region_map(shm_region_fd("x"), &header)) < 0;
}
"""
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture
def socket_path() -> Iterator[str]:
    """The host of a region in the second window."""
    with shmhost.embedded(windows=SECOND) as host, shmclient.connect(host.socket_path) as shm:
        shm.put("x", b"1")
        yield host.socket_path


def output(*command: object, **environ: str) -> str:
    result = subprocess.run(
        list(map(str, command)),
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_python_with_thread_sanitizer_gets_an_error(socket_path: str) -> None:
    library = subprocess.check_output(["cc", "-print-file-name=libtsan.so"], text=True).strip()
    check = [sys.executable, "-c", "import numpy"]
    environ = {"LD_PRELOAD": library, "TSAN_OPTIONS": "report_bugs=0"}
    if (
        not Path(library).is_absolute()
        or subprocess.run(check, env=os.environ | environ, check=False).returncode
    ):
        pytest.skip("NOT TESTED: Python does not start with ThreadSanitizer here")
    assert output(sys.executable, "-c", PYTHON, socket_path, **environ) == "refused\nb'1'\n"


def test_native_program_with_thread_sanitizer_gets_an_error(socket_path: str, tmp_path: Path) -> None:
    (tmp_path / "program.c").write_text(NATIVE)
    build = [
        "cc",
        *STRICT,
        "-fsanitize=thread",
        "-x",
        "c",
        tmp_path / "program.c",
        "-o",
        tmp_path / "program",
    ]
    if subprocess.run(build, check=False).returncode:
        pytest.skip("NOT TESTED: there is no ThreadSanitizer here")
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", socket_path, "--region", "x"]
    assert output(*command, "--", tmp_path / "program") == "-17\n"  # -EEXIST
