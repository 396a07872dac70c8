"""The option that several commands have, and how they print JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import rich_click as click

Option = Callable[[Callable[..., Any]], Callable[..., Any]]  # a decorator of a command's function

json_option: Option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: object) -> None:
    """Print a value as JSON for people and programs."""
    print(json.dumps(value, indent=2))
