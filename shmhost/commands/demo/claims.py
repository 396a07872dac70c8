"""Prints what a demo claims, and whether it holds."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def judge(console: Console, good: bool, claim: str) -> bool:
    """Print a claim with a mark; return whether it holds."""
    mark = Text.assemble(("✓ ", "green") if good else ("✗ NOT SO: ", "bold red"), claim)
    console.print(mark, highlight=False)
    return good
