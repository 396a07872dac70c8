"""What both commands say in their help: the socket, examples, exit codes. Loads no library."""

from __future__ import annotations

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


def manual(*examples: str) -> str:
    """Return the end of a help text: a line for each example, and the exit codes.

    The blank lines between them are what keeps rich-click from filling the lines.
    """
    codes = ", ".join(f"{code} {text}" for code, text in EXIT_CODES.items())
    lines = ["Examples:", *(f"$ {example}" for example in examples), "", f"Exit codes: {codes}."]
    return "\n\n".join(lines)
