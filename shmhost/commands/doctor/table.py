"""The findings of `doctor` as a table, as JSON, and as one answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from shmhost.commands.doctor.judge import NOTE, OK, PROBLEM, Finding

COLORS = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Return whether no finding is a problem; notes are not."""
    return all(finding.state != PROBLEM for finding in findings)


def as_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return the findings as JSON has them: topic, state, found, advice."""
    return [finding._asdict() for finding in findings]


def doctor_table(findings: Iterable[Finding]) -> Table:
    """Return the table of `doctor`: as wide as the console, each advice below its finding."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("state", no_wrap=True)
    table.add_column("topic", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        text = Text(finding.found)
        if finding.advice:
            text.append(f"\n-> {finding.advice}", style="bold")
        state = Text(finding.state, style=COLORS.get(finding.state, ""))
        table.add_row(state, Text(finding.topic), text)
    return table
