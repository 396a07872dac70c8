"""Text for people: what a terminal may get, and units that fit."""

from __future__ import annotations

import pytest

from shmhost.commands.text import STATE_COLORS, age, format_size, printable
from shmprotocol.wire.names import State


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172800, "2 d"),
        (-5, "0 s"),
    ],
)
def test_age_is_in_the_unit_that_fits(seconds: int, text: str) -> None:
    assert age(10**18, 10**18 + seconds * 10**9) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1024.0 KiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_size_is_in_the_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


def test_control_characters_are_replaced_and_others_stay() -> None:
    assert printable("a b/\u00e9\u65e5 [/x]") == "a b/\u00e9\u65e5 [/x]"
    assert printable("a\x1b[2Jb\u202ec\n") == "a\ufffd[2Jb\ufffdc\ufffd"


def test_every_state_that_a_message_has_is_coloured() -> None:
    assert set(STATE_COLORS) == set(State) - {State.FREED}
