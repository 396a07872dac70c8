"""The examples of arenas in C, started as `shmclient exec` starts them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from arena_programs import compiled, needs_compiler, run
from native_support import ROOT, STRICT, WAYS

pytestmark = needs_compiler


@pytest.mark.parametrize("way", WAYS)
def test_consumer_reads_what_the_producer_publishes(way: str, tmp_path: Path) -> None:
    programs = [tmp_path / name for name in ("producer", "consumer")]
    for program in programs:
        source = ROOT / "examples" / f"{program.name}.c"
        subprocess.run([*WAYS[way], *STRICT, source, "-o", program], check=True)
    lines = run(compiled("inherit"), *programs, 5).splitlines()
    values = [[int(number) for number in line.split()] for line in lines]
    assert [size for _generation, size, _sum, _age in values] == [640 * 480] * 5
    generations = [value[0] for value in values]
    assert generations == sorted(set(generations))
    for generation, _size, total, _age in values:
        frame = generation - 1
        assert total == sum((x + y + frame) % 256 for y in range(480) for x in range(640))


@pytest.mark.parametrize("build", ["c11", "c++17", "sanitized"])
@pytest.mark.parametrize("case", ["errors", "lines", "owners", "readers"])
def test_program_inherits(case: str, build: str) -> None:
    if case == "owners" and build == "sanitized":
        pytest.skip("the sanitizer reports the child's SIGSEGV, which is what is expected")
    run(compiled("inheriting", build), case)
