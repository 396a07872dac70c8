"""The edges of an arena: memory, names, holds, descriptors, counts that go around; and lies of all sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from arena_programs import attempt, compile_changed, compiled, needs_compiler, run

pytestmark = needs_compiler
CASES = ["growth", "full", "names", "descriptions", "holds"]
CASES += ["late_message", "late_sleeper", "descriptors", "wraps", "children"]


@pytest.mark.parametrize("build", ["c++17", "sanitized"])
@pytest.mark.parametrize("case", CASES)
def test_limit(case: str, build: str) -> None:
    if case == "children" and build == "sanitized":
        pytest.skip("the sanitizer reports the child's SIGSEGV, which is what is expected")
    run(compiled("limits", build), case)


@pytest.mark.parametrize("build", ["c11", "sanitized"])
@pytest.mark.parametrize(("liar", "rounds"), [("still", 2000), ("moving", 1000), ("ledger", 300)])
def test_lies_make_nobody_fault(liar: str, rounds: int, build: str) -> None:
    for seed in (1, 2):
        run(compiled("lies", build), liar, seed, rounds)


UNCHECKED = {
    "shm_arena_map.h": [
        (
            "        return at >= from && at <= end && size <= end - at;\n",
            "        return at >= from && at + size <= end;\n",
        )
    ]
}


def test_lies_are_found_when_a_check_is_wrong(tmp_path: Path) -> None:
    """A sum that goes around: the control of the test above."""
    program = compile_changed("lies", tmp_path, UNCHECKED)
    codes = [attempt(program, "still", seed, 2000).returncode for seed in range(4)]
    assert any(code < 0 for code in codes), codes


def test_speed_can_be_measured() -> None:
    """The program runs; what it measures is for people: `taskset -c 0` it on an idle machine."""
    lines = run(compiled("speed")).splitlines()
    assert sum(line.startswith("put 1 KiB") for line in lines) == 3
