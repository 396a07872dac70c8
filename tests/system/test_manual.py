"""The pages for man(1) are those of the commands as they are, and man shows them without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from docs.site import commands
from shmhost.cli import cli

FOLDER = Path(__file__).parents[2] / "packaging" / "man"


def test_pages_say_what_the_commands_do() -> None:
    """After a change of an option or of its help, `make man` writes them anew."""
    for command in cli.commands.values():  # by itself, it has no -h, which click keeps for later
        command.get_help_option(click.Context(command))
    written = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.1")}
    assert written == {page.name: commands.roff(page) for page in commands.pages()}
    assert {"shmhost", "shmhost-serve", "shmclient", "shmclient-exec"} <= set(written)


@pytest.mark.skipif(shutil.which("groff") is None, reason="NOT TESTED: there is no groff")
@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.1")), ids=lambda page: page.stem)
def test_page_is_shown_without_a_warning(page: Path) -> None:
    shown = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-rLL=90n", page], capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\nSYNOPSIS\n" in re.sub(".\b", "", shown.stdout)  # without overstrikes
