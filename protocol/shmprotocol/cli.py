"""The parts that both commands share: help texts, exit codes, and how a command ends. Loads no library."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from shmprotocol.errors import InvalidArgument, ShmError, exit_code

SOCKET_HELP = (
    "The host's socket. Default: $SHMHOST_SOCKET, $XDG_RUNTIME_DIR/shmhost/host.sock, "
    "or /run/shmhost/host.sock."
)
EXIT_CODES = {
    0: "done",
    1: "refused or failed",
    2: "wrong usage",
    3: "no host",
    4: "no such region",
    5: "access denied",
    6: "timed out",
}

_EXTRA = ("click", "rich", "rich_click", "textual")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def manual(*examples: str) -> str:
    """Return the end of a help text: a line for each example, and the exit codes.

    The blank lines between them keep rich-click from reflowing the lines.
    """
    codes = ", ".join(f"{code} {text}" for code, text in EXIT_CODES.items())
    lines = ["Examples:", *(f"$ {example}" for example in examples), "", f"Exit codes: {codes}."]
    return "\n\n".join(lines)


def parse_size(text: str) -> int:
    """Return the bytes of `123`, `64K`, `1.5G`, ...; InvalidArgument when it is none of these."""
    match = re.fullmatch(
        r"(\d{1,19}(?:\.\d{1,19})?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII
    )
    if match is None:
        raise InvalidArgument(f"a size is a number of bytes, with K, M, G or T behind it, not {text!r:.40}")
    return (
        int(float(match[1]) * _UNITS[match[2].upper()])
        if "." in match[1]
        else int(match[1]) * (_UNITS[match[2].upper()])
    )


@contextlib.contextmanager
def extra_needed(program: str, needs: str = "the commands need", otherwise: str = "") -> Iterator[None]:
    """Import in this block what needs the extra `cli`; without its libraries one line ends the program."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _EXTRA:
            raise  # a fault of the installation
        print(f"{program}: {needs} {library}: pip install 'shmhost[cli]'{otherwise}", file=sys.stderr)
        sys.exit(1)


def report(program: str, error: ShmError) -> None:
    """Say on one line of standard error what went wrong."""
    print(f"{program}: {error}", file=sys.stderr)


def run(command: Callable[[], object], program: str) -> None:
    """Run a command; an error of the project ends it with one line and an exit code."""
    try:
        command()
    except ShmError as error:
        report(program, error)
        sys.exit(exit_code(error))
    except OSError as error:  # of a file argument, or of the output
        print(f"{program}: {error.filename or 'cannot continue'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
