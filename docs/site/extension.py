"""What Sphinx needs beside its own parts: our style of docstrings, and pages that are made of the source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import shmclient
from docs.site import commands, constants, headers, links, prose, texts

PAGES: dict[str, Callable[[], Iterable[str]]] = {
    "commands": commands.restructured,
    "borrowed": constants.borrowed_restructured,
    "constants": constants.restructured,
    "headers": headers.restructured,
    "texts": texts.restructured,
}
LINKED = [name for name in shmclient.__all__ if name[0].isupper()]


class Made(SphinxDirective):
    """`.. made:: commands`: a page that is made of the source at each build."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the page."""
        lines = "\n".join(PAGES[self.arguments[0]]())
        return self.parse_text_to_nodes(lines, allow_section_headings=True)


def restructure(_app: Sphinx, _what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    """Rewrite a docstring, in place."""
    lines[:] = prose.restructured(lines, LINKED)


def show_modes(
    _app: Sphinx, _what: str, _name: str, _thing: Any, _options: Any, text: str, result: str
) -> Any:
    """Write the default of `mode` as people do: in base 8."""
    if text is None or "mode: int = " not in text:
        return None
    return re.sub(r"\bmode: int = (\d+)", lambda match: f"mode: int = {int(match[1]):#o}", text), result


def relink(_app: Sphinx, page: str, source: list[str]) -> None:
    """Give a page its text, with links as they are in the site."""
    text = links.with_other_pages(source[0]) if page == "index" else source[0]
    source[0] = links.text_of(page, text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add all of it to Sphinx."""
    app.add_directive("made", Made)
    app.connect("autodoc-process-docstring", restructure)
    app.connect("autodoc-process-signature", show_modes)
    app.connect("source-read", relink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
