"""Compiles a native program of the examples, for a demo."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import subprocess

from rich.console import Console


def compile_example(console: Console, name: str, folder: str) -> str | None:
    """Compile NAME.c of the examples into a folder; None, and a note on the console, if that fails."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        console.print(
            "[yellow]No C compiler is installed, so there is no C reader: apt-get install gcc libc6-dev[/]"
        )
        return None
    program = os.path.join(folder, name)
    source = importlib.resources.files("shmprotocol.examples") / f"{name}.c"
    include = importlib.resources.files("shmprotocol.abi")
    with importlib.resources.as_file(source) as path, importlib.resources.as_file(include) as headers:
        command = [compiler, "-O2", "-std=c11", f"-I{headers}", str(path), "-o", program]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        console.print("[yellow]The C reader does not compile here:[/]")
        console.print(result.stderr, markup=False, highlight=False)
        return None
    return program
