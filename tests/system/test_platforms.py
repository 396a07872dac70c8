"""Other platforms than this one: headers, readers, arenas and the compiled part, by cross compilers and qemu.

qemu-user executes the instructions of another CPU with the memory of this one, whose order it has: a missing
barrier is not seen here. tests/model looks for those.
"""

from __future__ import annotations

import functools
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import shmclient
from arena_programs import SOURCES
from native_support import ROOT, STRICT
from shmhost.commands.demo import index
from support import WatchedHost

HEADERS = sorted((ROOT / "shmprotocol" / "abi").glob("*.h"))
SERVED = {"aarch64": "aarch64-linux-gnu-gcc", "riscv64": "riscv64-linux-gnu-gcc"}
REFUSED = {
    "arm": ("arm-linux-gnueabihf-gcc", "shmhost regions hold 64-bit pointers"),
    "s390x": ("s390x-linux-gnu-gcc", "shmhost regions are little-endian"),
}


def need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"NOT TESTED ON THIS PLATFORM: there is no {' and no '.join(missing)}")


def build(compiler: str, source: Path, program: Path, *options: str) -> Path:
    command = [compiler, "-std=gnu11", "-O2", *STRICT, *options, source, "-pthread", "-static", "-o", program]
    subprocess.run(command, check=True)
    return program


def run(machine: str, program: Path, *arguments: object) -> str:
    command = [f"qemu-{machine}-static", program, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout


@functools.cache
def all_headers() -> str:
    return "".join(f'#include "{header.name}"\n' for header in HEADERS) + "int main(void) { return 0; }\n"


@pytest.mark.parametrize("machine", SERVED)
def test_every_header_is_compiled_for_a_platform(machine: str, tmp_path: Path) -> None:
    need(SERVED[machine])
    source = tmp_path / "all.c"
    source.write_text(all_headers())
    for standard in ("c11", "gnu11"):
        command = [SERVED[machine], f"-std={standard}", *STRICT, "-fsyntax-only", source]
        subprocess.run(command, check=True)


@pytest.mark.parametrize("machine", REFUSED)
def test_platform_of_another_layout_is_refused_with_the_reason(machine: str, tmp_path: Path) -> None:
    compiler, reason = REFUSED[machine]
    need(compiler)
    source = tmp_path / "abi.c"
    source.write_text('#include "shm_abi.h"\nint main(void) { return 0; }\n')
    result = subprocess.run([compiler, "-std=c11", *STRICT, "-fsyntax-only", source], capture_output=True)
    assert result.returncode != 0
    assert reason in result.stderr.decode()


@pytest.mark.parametrize("machine", SERVED)
def test_compiled_part_is_compiled_for_a_platform(machine: str, tmp_path: Path) -> None:
    """Not linked or run: that takes a Python of the platform."""
    need(SERVED[machine])
    native = ROOT / "shmprotocol" / "native"
    module = runpy.run_path(str(native / "build.py"))
    module["make_ffi"]().emit_c_code(str(tmp_path / "_native.c"))
    includes = [f"-I{native}", STRICT[-1], f"-I{sysconfig.get_path('include')}"]
    command = [SERVED[machine], "-std=gnu11", "-O2", "-Wall", "-DPy_LIMITED_API=0x030b0000", *includes]
    subprocess.run([*command, "-c", tmp_path / "_native.c", "-o", tmp_path / "_native.o"], check=True)


@pytest.mark.parametrize("machine", SERVED)
def test_threads_of_another_cpu_read_whole_values_of_an_arena(machine: str, tmp_path: Path) -> None:
    need(SERVED[machine], f"qemu-{machine}-static")
    program = build(SERVED[machine], SOURCES / "threads.c", tmp_path / "threads")
    for mappings in ("one", "two"):
        assert "puts" in run(machine, program, mappings, 300)


@pytest.mark.parametrize("machine", SERVED)
def test_processes_of_another_cpu_survive_the_death_of_others(machine: str, tmp_path: Path) -> None:
    need(SERVED[machine], f"qemu-{machine}-static")
    program = build(SERVED[machine], SOURCES / "torture.c", tmp_path / "torture")
    assert "0 torn" in run(machine, program, 1, 3)


@pytest.mark.parametrize("machine", SERVED)
def test_reader_of_another_cpu_follows_the_pointers_of_a_region(
    machine: str, host: WatchedHost, shm: shmclient.Client, tmp_path: Path
) -> None:
    """At the address that it has in every process, by the instructions of another CPU."""
    need(SERVED[machine], f"qemu-{machine}-static")
    program = build(SERVED[machine], ROOT / "examples" / "reader.c", tmp_path / "reader")
    words = index.Words()
    words.add("text.py", b"one two\nthree\ntwo one one\n")
    with shm.create("words", words.size()) as builder:
        index.build(builder, index.make_ffi(), words)
    command = [sys.executable, "-m", "shmclient", "exec", "--region", "words", "--socket", host.socket_path]
    command += ["--", f"qemu-{machine}-static", str(program), "words", "two"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:2] == [
        f"words at {shm.stat('words').address:#x}: 3 words in 1 files",
        "two: 2 places",
    ]
