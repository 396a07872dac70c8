"""What both commands say below their help: examples, and what their exit codes mean. Loads no library."""

from __future__ import annotations

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
