"""`make bench-peers`: this project and others by the same workloads, in one run."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.peers import registry, runner, workloads
from benchmarks.peers.workload import Scale
from benchmarks.results import OURS, dump
from benchmarks.table import peer_notes, peer_table


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and keep the run."""
    options = parse(arguments)
    machine.end_on_sigterm()
    console = Console(width=max(170, Console().width))
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {text}", highlight=False, style="dim")

    scale = Scale(rounds=options.rounds)
    chosen = [entry for entry in workloads.workloads(scale) if entry.key.startswith(tuple(options.only))]
    run = runner.run(options.peers, chosen, scale, say)
    console.print(peer_table(run), *peer_notes(run), sep="\n", highlight=False)
    if options.json:
        options.json.write_text(dump(run), "utf-8")
        console.print(f"kept in {options.json}")
    return int(OURS in run.absent)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument("--json", type=Path, help="keep the run in this file")
    parser.add_argument("--rounds", type=int, default=10, help="of each workload (10)")
    parser.add_argument("--only", nargs="+", default=[""], help="workloads whose keys begin so, such as put")
    parser.add_argument(
        "--peers", nargs="+", default=list(registry.MODULES), choices=registry.MODULES, help="all of them"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
