"""Owners and readers of arenas at the same time: threads, processes that die, each instruction, and sleep."""

from __future__ import annotations

from pathlib import Path

import pytest

from arena_programs import STEPS, Changes, attempt, compile_changed, compiled, needs_compiler, run

pytestmark = needs_compiler
TORN = 7  # torture's exit code: a reader saw what it must not see


# --- threads


@pytest.mark.parametrize("mappings", ["one", "two"])
@pytest.mark.parametrize("build", ["threads", "sanitized", "c++17"])
def test_threads_read_whole_values(build: str, mappings: str) -> None:
    assert "puts" in run(compiled("threads", build), mappings, 1000)


UNNAMED_WORD = {
    "shm_arena_wait.h": [
        ("if (is_it && __atomic_load_n(&entry->word, __ATOMIC_SEQ_CST) == *word_out)", "if (is_it || 1)")
    ]
}


def test_threads_find_a_word_that_is_of_another_name(tmp_path: Path) -> None:
    """The control of `shm_arena_look`: without its second look, a waiter sleeps on the wrong word."""
    program = compile_changed("threads", tmp_path, UNNAMED_WORD)
    assert attempt(program, "one", 20_000).returncode != 0


# Where the other may go on while a reader walks along a chain of the index, and the owner moves it.
PROBE_STEPS = {
    "shm_arena_read.h": [
        ('#include "shm_arena_ledger.h"\n', '#include "shm_arena_ledger.h"\nvoid arena_step(void);\n'),
        (
            "                if (slot == 0)\n",
            "                arena_step();\n                if (slot == 0)\n",
        ),
    ]
}
NO_SECOND_WALK = {
    "shm_arena_read.h": [
        ("while (error == -ENOENT && steps-- > 0)", "while (error == -EBUSY && steps-- > 0)")
    ]
}


def test_names_that_are_there_are_found_while_others_move(tmp_path: Path) -> None:
    assert "moves" in run(compile_changed("chains", tmp_path, PROBE_STEPS), 2000)


def test_names_are_missed_when_moves_are_not_heeded(tmp_path: Path) -> None:
    program = compile_changed("chains", tmp_path, PROBE_STEPS, NO_SECOND_WALK)
    assert attempt(program, 20_000).returncode != 0


# --- processes


STORE = "__atomic_store_n(&hold->block, arena->home + record.block, __ATOMIC_SEQ_CST);\n"
FILL = "                shm_value_fill(arena, &record"
SECOND_LOOK = {"shm_arena_read.h": [("if (again != word)\n", "if (0)\n")]}
LATE_HOLD = {
    "shm_arena_read.h": [
        (STORE, "(void)0;\n"),
        (FILL, "                arena_step();\n" + STORE + FILL),
    ]
}
BOARD_WORD = {"shm_arena_link.h": [("return (int32_t)(owner->heard - told) >= 0 && ", "return ")]}
LEDGERS = {"shm_arena_collect.h": [("        info->held |= (uint64_t)1 << place.bit % 64;\n", "")]}


def test_torture_a_short_time(tmp_path: Path) -> None:
    """Readers are stopped in the middle of getting a value, and killed; owners are killed anywhere."""
    program = compile_changed("torture", tmp_path, STEPS)
    output = run(program, 1, 4)
    assert "0 torn" in output


@pytest.mark.parametrize(
    "change",
    [SECOND_LOOK, LATE_HOLD, BOARD_WORD, LEDGERS],
    ids=["no second look", "hold after the second look", "board's word not compared", "ledgers not read"],
)
def test_torture_finds_what_is_left_out(change: Changes, tmp_path: Path) -> None:
    program = compile_changed("torture", tmp_path, STEPS, change)
    result = attempt(program, 1, 40)
    assert result.returncode == TORN, result.stdout + result.stderr


@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(5))
def test_torture_long(seed: int, tmp_path: Path) -> None:
    program = compile_changed("torture", tmp_path, STEPS)
    assert "0 torn" in run(program, seed, 120, timeout_s=400)
    assert "0 torn" in run(compiled("torture"), seed, 120, timeout_s=400)


# --- each instruction


def test_owner_that_is_killed_at_any_instruction_leaves_whole_values() -> None:
    assert int(run(compiled("steps")).split()[0]) > 10_000


EARLY_FLIP = {
    "shm_arena_publish.h": [
        ("        shm_record_write(&entry->record[which], value);\n", ""),
        (
            "        word = shm_entry_flip(owner, entry, which);\n        if",
            "        word = shm_entry_flip(owner, entry, which);\n"
            "        shm_record_write(&entry->record[which], value);\n        if",
        ),
    ]
}
MOVE = "                __atomic_store_n(&owner->slots[hole], owner->slots[at], __ATOMIC_RELEASE);\n"
EARLY_HOLE = {
    "shm_arena_publish.h": [
        (
            MOVE,
            'uint32_t slot = owner->slots[at]; owner->slots[at] = 0; __asm__ volatile("" ::: "memory");\n',
        ),
        (
            "__atomic_store_n(moves, *moves + 1, __ATOMIC_RELEASE);\n",
            "owner->slots[hole] = slot; ++*moves;\n",
        ),
    ]
}


@pytest.mark.parametrize(
    "change", [EARLY_FLIP, EARLY_HOLE], ids=["flip before the record", "hole before the move"]
)
def test_steps_find_what_is_in_the_wrong_order(change: Changes, tmp_path: Path) -> None:
    program = compile_changed("steps", tmp_path, change)
    assert attempt(program).returncode != 0


# --- sleep


@pytest.mark.parametrize(("how", "rounds"), [("futex", 100_000), ("any", 30_000), ("event", 30_000)])
def test_no_wake_is_lost(how: str, rounds: int) -> None:
    assert run(compiled("sleeping"), rounds, how) == "ok\n"


def test_client_that_fills_its_event_does_not_stop_the_owner() -> None:
    run(compiled("sleeping"), 0, "event")
