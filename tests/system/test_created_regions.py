"""`shmclient exec --create`: regions that a native program fills, and arrays that C and Python exchange."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shmclient
from native_support import ROOT, STRICT, WAYS
from support import WatchedHost

README = (ROOT / "README.md").read_text("utf-8")
SCRIPT = """
import mmap, os, sys
fd, address, capacity, size, name = os.environ["SHM_CREATES"].split()
with mmap.mmap(int(fd), int(capacity)) as memory:
    memory[4096:4101] = b"hello"
    memory[56:64] = (5).to_bytes(8, "little")
"""


@pytest.fixture(scope="module", params=WAYS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("array") / "array"
    subprocess.run([*WAYS[request.param], *STRICT, ROOT / "examples" / "array.c", "-o", path], check=True)
    return path


def start(socket: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", socket, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def run(socket: str, *arguments: object) -> tuple[int, str, str]:
    child = start(socket, *arguments)
    output, errors = child.communicate(timeout=100)
    return child.returncode, output, errors


def test_python_gets_the_array_that_a_program_in_c_wrote(
    program: Path, host: WatchedHost, shm: shmclient.Client
) -> None:
    assert run(host.socket_path, "--create", "table:1M", "--", program, "write", "table", 3, 40) == (
        0,
        "",
        "",
    )
    table = shm.get("table")
    assert (table.dtype, table.shape, table.flags.writeable) == (np.float64, (3, 40), False)
    assert table.tolist() == np.arange(120.0).reshape(3, 40).tolist()
    with shm.open("table") as region:
        assert table.ctypes.data == region.address + 4096


def test_metadata_from_c_is_that_of_python(program: Path, host: WatchedHost, shm: shmclient.Client) -> None:
    """Byte by byte, also where a number takes one, two, three or five bytes."""
    for rows, columns in ((1, 1), (3, 4), (200, 1), (300, 2), (70_000, 1)):
        code, _, errors = run(
            host.socket_path, "--create", "c:4M", "--", program, "write", "c", rows, columns
        )
        assert (code, errors) == (0, "")
        shm.put("python", np.zeros((rows, columns))).close()
        with shm.open("c") as ours, shm.open("python") as theirs:
            assert metadata_of(ours) == metadata_of(theirs)


def test_metadata_from_python_is_that_of_the_specification(shm: shmclient.Client) -> None:
    block = README.split("```hex array\n")[1].split("```")[0]
    content = bytes.fromhex("".join(re.sub("#.*", "", line) for line in block.splitlines()))
    shm.put("table", np.zeros((3, 4))).close()
    with shm.open("table") as region:
        assert metadata_of(region) == content


def metadata_of(region: shmclient.Region) -> bytes:
    """Return the bytes themselves, from the object."""
    start, size = struct.unpack_from("<QQ", os.pread(region.fileno(), 4096, 0), 128)
    return os.pread(region.fileno(), size, start - region.address)


@pytest.mark.parametrize("order", ["C", "F"])
def test_program_in_c_reads_the_array_that_python_put(
    program: Path, host: WatchedHost, shm: shmclient.Client, order: str
) -> None:
    shm.put("table", np.asarray(np.arange(12.0).reshape(3, 4), order=order)).close()
    output = run(host.socket_path, "--region", "table", "--", program, "read", "table")
    assert output == (0, f"<f8 {order} 3 4: 66\n", "")


@pytest.mark.parametrize("value", [b"bytes", np.zeros(3, "U4"), np.zeros((1,) * 9), {"a": np.zeros(1)}])
def test_program_in_c_refuses_other_values(
    program: Path, host: WatchedHost, shm: shmclient.Client, value: object
) -> None:
    shm.put("other", value).close()
    code, output, errors = run(host.socket_path, "--region", "other", "--", program, "read", "other")
    assert (code, output) == (3, "")
    assert "not supported" in errors


@pytest.mark.parametrize("code", [0, 1])
def test_region_is_published_when_the_program_ends_with_0_alone(
    host: WatchedHost, shm: shmclient.Client, code: int
) -> None:
    shm.put("note", b"before").close()
    script = f"{SCRIPT}\nsys.exit({code})"
    outcome = run(
        host.socket_path, "--create", "note:100", "--mode", "640", "--", sys.executable, "-c", script
    )
    assert outcome == (code, "", "")
    assert bytes(shm.get("note")) == (b"before" if code else b"hello")
    assert shm.stat("note").generation == (1 if code else 2)
    assert shm.stat("note").mode == (0o600 if code else 0o640)


def test_region_is_given_up_when_a_signal_ends_the_program(host: WatchedHost, shm: shmclient.Client) -> None:
    script = f"{SCRIPT}\nprint('ready', flush=True)\nsys.stdin.read()"
    child = start(host.socket_path, "--create", "note=100", "--", sys.executable, "-c", script)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)  # which the command passes on
    child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert not shm.exists("note")
    assert host.counts()["creating"] == 0


def test_draft_that_leads_out_of_the_region_is_refused(host: WatchedHost, shm: shmclient.Client) -> None:
    lie = SCRIPT + "    memory[64:72] = (4096).to_bytes(8, 'little'); memory[72:80] = bytes([8] + [0] * 7)\n"
    code, _, errors = run(host.socket_path, "--create", "note:100", "--", sys.executable, "-c", lie)
    assert code == 1
    assert errors.startswith("shmclient: ")
    assert "Traceback" not in errors
    assert not shm.exists("note")


def test_size_is_part_of_what_is_created(host: WatchedHost) -> None:
    code, _, errors = run(host.socket_path, "--create", "note", "--", "true")
    assert code == 2
    assert "NAME=SIZE" in errors


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="there is no pkg-config")
def test_pkg_config_has_the_folder_of_the_headers() -> None:
    command = [sys.executable, "-m", "shmclient", "--pkg-config"]
    folder = subprocess.check_output(command, text=True, timeout=60).strip()
    environment = {**os.environ, "PKG_CONFIG_PATH": folder}

    def ask(option: str) -> str:
        return subprocess.check_output(["pkg-config", option, "shmhost"], env=environment, text=True).strip()

    assert (Path(ask("--cflags").removeprefix("-I")) / "shm_abi.h").is_file()
    assert ask("--modversion") == shmclient.__version__
