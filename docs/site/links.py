"""Links of the pages in the site: some files of the repository are pages there, and folders are not."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Files that lie elsewhere, by the pages that they are in the site. `docs` has empty files for these.
PAGES = {"readme": "README.md", "specification": "protocol/README.md", "changelog": "CHANGELOG.md"}
_LINK = re.compile(r"(?P<text>\[[^\]]*\])\((?!\w+:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def text_of(page: str, text: str) -> str:
    """Return the text of a page, given that of its file in `docs`, with its links as the site needs them."""
    path = DOCS / f"{page}.md"
    if page in PAGES:
        path = ROOT / PAGES[page]
        text = path.read_text("utf-8")
    return _LINK.sub(lambda match: _linked(path.parent, match), text)


def with_other_pages(text: str) -> str:
    """Put each page that the index does not name, such as a new one, in place of the line `...`."""
    names = (path.relative_to(DOCS).with_suffix("").as_posix() for path in sorted(DOCS.rglob("*.md")))
    others = [name for name in names if not re.search(rf"^(?:.* <)?{name}>?$", text, re.MULTILINE)]
    return re.sub(
        r"^\.\.\.\n", "".join(f"{name}\n" for name in others if name != "index"), text, flags=re.MULTILINE
    )


def _linked(folder: Path, match: re.Match[str]) -> str:
    path = (folder / match["path"]).resolve()
    if path.is_dir():
        return match["text"][1:-1]
    for page, name in PAGES.items():
        if path == ROOT / name:
            path = DOCS / f"{page}.md"
    target = f"/{path.relative_to(DOCS)}" if path.is_relative_to(DOCS) else os.path.relpath(path, folder)
    if not path.is_relative_to(DOCS) and path.exists():
        target = f"/{os.path.relpath(path, DOCS)}"
    return f"{match['text']}({target}{match['anchor'] or ''})"
