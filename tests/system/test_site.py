"""The documentation as a site: it builds without a warning, with every public name and every error."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import shmclient
from docs.site import headers, texts

if importlib.util.find_spec("sphinx") is None and "CI" not in os.environ:  # `make test` installs it
    pytest.skip("Sphinx is missing: pip install 'shmhost[docs]'", allow_module_level=True)
inventories = importlib.import_module("sphinx.util.inventory")
pytestmark = pytest.mark.timeout(300)  # a build takes 17 s of CPU
ROOT = Path(__file__).parents[2]
MODULES = (
    "shmclient",
    "shmclient.aio",
    "shmclient.posix",
    "shmclient.shared_memory",
    "shmhost",
    "shmhost.testing",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does, but elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    built = subprocess.run(
        [*command, ROOT / "docs", folder / "html", "-d", folder / "trees"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="module")
def names(site: Path) -> dict[str, set[str]]:
    """Return the names that the site has, by their kind."""
    inventory = inventories.InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    return {kind: set(entries) for kind, entries in inventory.items()}


@pytest.mark.parametrize("module", MODULES)
def test_site_has_every_public_name(module: str, names: dict[str, set[str]]) -> None:
    python = set().union(*(entries for kind, entries in names.items() if kind.startswith("py:")))
    public = [f"{module}.{name}" for name in importlib.import_module(module).__all__]
    assert module in python
    assert [name for name in public if name not in python] == []


@pytest.mark.parametrize("module", MODULES)
def test_site_has_every_method_of_public_classes(module: str, names: dict[str, set[str]]) -> None:
    python = set().union(*(entries for kind, entries in names.items() if kind.startswith("py:")))
    classes = [
        getattr(importlib.import_module(module), name) for name in importlib.import_module(module).__all__
    ]
    methods = [
        f"{module}.{cls.__name__}.{method}"
        for cls in classes
        if isinstance(cls, type) and not issubclass(cls, BaseException)
        for base in cls.__mro__
        if base.__module__.startswith("shm")
        for method in vars(base)
        if not method.startswith("_")
    ]
    assert [name for name in methods if name not in python] == []


def test_site_has_every_function_of_the_headers(names: dict[str, set[str]]) -> None:
    sources = [path.read_text("utf-8") for path in headers.FOLDER.glob("shm_*.h")]
    functions = {name for text in sources for name in headers.function_names(text)}
    assert len(functions) > 200
    assert functions - names["c:function"] == set()


def test_every_error_is_documented_by_its_texts() -> None:
    """ProtocolError is only the base of two others."""
    kinds = {text.kind for text in texts.texts()}
    assert set(texts.CLASSES) - kinds == {"ProtocolError"}


def test_errors_are_found_by_their_texts(shm: shmclient.Client, tmp_path: Path) -> None:
    closed = shm.put("taken", b"1")
    closed.close()
    tries: tuple[Callable[[], object], ...] = (
        lambda: shm.get("missing"),
        lambda: shm.get("missing", wait=0.01),
        lambda: shm.put("", b"1"),
        lambda: shm.put("taken", b"1", replace=False),
        lambda: shm.create("large", 1 << 60).__enter__(),
        lambda: shmclient.connect(tmp_path / "none"),
        closed.fileno,
    )
    templates = texts.texts()
    for attempt in tries:
        with pytest.raises(shmclient.ShmError) as caught:
            attempt()
        kind = type(caught.value).__name__
        assert any(text.kind == kind and text.matches(str(caught.value)) for text in templates), caught.value


def test_every_page_is_reached_from_the_index(site: Path) -> None:
    pages = [path.relative_to(site).with_suffix("") for path in site.rglob("*.html")]
    index = (site / "index.html").read_text("utf-8")
    special = {"genindex", "search", "py-modindex", "index"}
    assert [
        str(page) for page in pages if str(page) not in special and f'href="{page}.html' not in index
    ] == []
