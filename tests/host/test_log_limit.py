"""The limit of log lines: for each kind, and each user that causes them, a second at a time."""

from __future__ import annotations

import logging

from shmhost.machine.log_limit import MAX_LINES, WINDOW_S, Limit


def line(number: int = 1, text: str = "dropped %d", uid: int | None = None) -> logging.LogRecord:
    record = logging.LogRecord("shmhost", logging.WARNING, "x", 1, text, (number,), None)
    if uid is not None:
        record.uid = uid
    return record


def admitted(limit: Limit, count: int, now_s: float = 0.0, **kind: object) -> int:
    return sum(limit.admits(line(number, **kind), now_s) for number in range(count))  # type: ignore[arg-type]


def told(limit: Limit, now_s: float) -> list[str]:
    return [record.getMessage() for record in limit.due(now_s)]


def test_lines_up_to_the_limit_are_whole() -> None:
    limit = Limit()
    assert admitted(limit, MAX_LINES) == MAX_LINES
    assert told(limit, WINDOW_S) == []


def test_one_line_more_is_counted_at_the_end_of_its_second() -> None:
    limit = Limit()
    assert admitted(limit, MAX_LINES + 1) == MAX_LINES
    assert told(limit, WINDOW_S - 0.01) == []
    assert told(limit, WINDOW_S) == [
        f"left out 1 lines of this kind within a second, the last of them: dropped {MAX_LINES}"
    ]
    assert (told(limit, WINDOW_S), bool(limit)) == ([], False)


def test_next_second_has_its_own_lines() -> None:
    limit = Limit()
    admitted(limit, 2 * MAX_LINES)
    assert told(limit, WINDOW_S)[0].startswith(f"left out {MAX_LINES} lines")
    assert admitted(limit, 2 * MAX_LINES, WINDOW_S) == MAX_LINES


def test_kinds_and_users_do_not_take_lines_from_each_other() -> None:
    limit = Limit()
    admitted(limit, 1000, uid=7)
    assert admitted(limit, MAX_LINES, uid=8) == MAX_LINES
    assert admitted(limit, MAX_LINES, text="refused %d", uid=7) == MAX_LINES
    assert len(told(limit, WINDOW_S)) == 1


def test_count_has_the_level_and_the_logger_of_its_lines() -> None:
    limit = Limit()
    admitted(limit, MAX_LINES + 1)
    (record,) = limit.due(WINDOW_S)
    assert (record.levelno, record.name) == (logging.WARNING, "shmhost")
