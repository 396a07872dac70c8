"""Copies of values: every byte of each, by whichever way is faster. See `shm_arena_copy.h`."""

from __future__ import annotations

from pathlib import Path

import pytest

from arena_programs import attempt, compile_changed, compiled, needs_compiler, run

pytestmark = needs_compiler


@pytest.mark.parametrize("build", ["sanitized", "c++17"])
def test_copies_are_whole_by_each_way(build: str) -> None:
    assert run(compiled("copies", build)) == "ok\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("memcpy(to + i, from + i, size - i);", "(void)0;"),
        ("memcpy(to, from, head);", "(void)0;"),
        ("if (shm_copy_faults() != faults)", "if (0)"),
        ("stream + plain / 20 < plain", "stream < plain"),
        ("kind->rest = SHM_COPY_REST;", "kind->rest = 0;"),
        ("? 0 : size < (uint64_t)16 << 20 ? 1 : 2", "? 0 : 2"),
        ("kind->rest -= pieces < kind->rest ? (uint32_t)pieces : kind->rest;", "(void)pieces;"),
    ],
)
def test_copies_find_what_is_left_out(before: str, after: str, tmp_path: Path) -> None:
    """The control of the test above."""
    program = compile_changed("copies", tmp_path, {"shm_arena_copy.h": [(before, after)]})
    assert attempt(program).returncode != 0
