"""The heap of an arena against a model, in each of the languages and with sanitizers."""

from __future__ import annotations

import pytest

from arena_programs import compiled, needs_compiler, run
from native_support import WAYS

pytestmark = needs_compiler


@pytest.mark.parametrize("way", WAYS)
def test_heap_gives_no_unit_twice_and_ends_as_one_run(way: str) -> None:
    program = compiled("heap", way)
    for seed in range(3):
        assert run(program, seed, 30_000) == "ok\n"
