"""The public classes have the names listed here and no others, and each has a docstring."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import shmclient
import shmclient.aio
import shmhost
import shmprotocol

HANDLE = (
    "address array capacity close data fileno generation header is_current is_relocated metadata name number "
    "resize root size translate value"
)
NAMES = {
    shmclient.Client: (
        "arena chmod close create exists fileno follow get get_many get_object list load open open_arena "
        "open_many put put_object save stat unlink watch"
    ),
    shmclient.aio.AsyncClient: (
        "aclose arena chmod create exists follow get get_many get_object list load open open_arena "
        "open_many put put_object save stat unlink watch"
    ),
    shmclient.Region: HANDLE,
    shmclient.aio.AsyncRegion: HANDLE,
    shmclient.Arena: (
        "build clear close get grow items keys loan new pop popitem put put_many put_object remove set_root "
        "setdefault size update values"
    ),
    shmclient.ArenaValue: (
        "address array close data is_current is_relocated metadata root size translate value"
    ),
    shmclient.ArenaView: "changes close generation get get_object items keys open values wait",
    shmclient.aio.AsyncArenaView: "changes generation get get_object items keys open values wait",
    shmclient.ArenaBuilder: "alloc bytes discard new publish set_root",
    shmclient.RegionBuilder: "alloc array bytes data data_address fileno new set_root size",
    shmclient.ArrowValue: "batch_count column_names format nbytes",
    shmclient.ArrowArrayValue: "batch_count column_names format nbytes",
    shmclient.RegionDict: "copy get items keys values",
    shmclient.Watch: "close",
    shmclient.Follow: "close",
    shmclient.aio.AsyncWatch: "aclose close",
    shmclient.aio.AsyncFollow: "aclose close",
    shmclient.posix.Mapping: "address buffer is_shared is_writable length prot",
    shmclient.Pinner: "iovec pin pin_graph unpin",
    shmclient.Pinned: "address readonly size store unpin",
    shmclient.IoVec: "address nbytes unpin",
}


def public(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_class_shows_these_names_and_no_others(cls: type) -> None:
    assert " ".join(public(dir(cls))) == NAMES[cls]


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_each_public_name_has_a_docstring(cls: type) -> None:
    bare = [name for name in public(dir(cls)) if not inspect.getdoc(getattr(cls, name))]
    assert (bare, bool(cls.__doc__)) == ([], True)


@pytest.mark.parametrize(
    "module", [shmclient, shmclient.aio, shmclient.posix, shmhost], ids=lambda m: m.__name__
)
def test_each_exported_class_and_function_has_a_docstring(module: ModuleType) -> None:
    exported = [(name, getattr(module, name)) for name in module.__all__]
    bare = [name for name, thing in exported if callable(thing) and not inspect.getdoc(thing)]
    assert bare in ([], ["getpagesize"])  # the standard library's own, which has none


def test_builder_shows_no_other_attributes(shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder:
        assert public(sorted(vars(builder))) == ["address", "capacity", "name", "region"]


def test_handles_show_no_attributes_of_their_own(shm: shmclient.Client) -> None:
    assert public(list(vars(shm.put("x", b"1")))) == []
    assert public(list(vars(shm))) == ["socket_path"]
    with shm.watch() as watch:
        assert public(list(vars(watch))) == []


@pytest.mark.parametrize(
    ("cls", "way"),
    [
        (shmclient.Region, r"client\.open"),
        (shmclient.aio.AsyncRegion, r"client\.open"),
        (shmclient.RegionBuilder, r"client\.create"),
        (shmhost.EmbeddedHost, r"shmhost\.start"),
        (shmclient.posix.Mapping, r"posix\.mmap"),
        (shmclient.Watch, r"client\.watch"),
        (shmclient.aio.AsyncFollow, r"client\.follow"),
        (shmclient.Pinned, r"pinner\.pin"),
        (shmclient.IoVec, r"pinner\.iovec"),
    ],
)
def test_constructor_says_who_makes_it(cls: type, way: str) -> None:
    with pytest.raises(TypeError, match=way):
        cls()


def test_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    packages = (shmprotocol, shmclient, shmhost)
    assert [package.__version__ for package in packages] == [project["version"]] * 3


def test_name_is_in_a_client_while_it_is_current(shm: shmclient.Client) -> None:
    assert "x" not in shm
    shm.put("x", b"1")
    assert "x" in shm
    shm.unlink("x")
    assert "x" not in shm
    with pytest.raises(shmclient.InvalidArgument):
        assert "" in shm


WRONG_CALLS = """
import shmclient
import shmclient.aio

def use(shm: shmclient.Client) -> None:
    shm.put("x", b"1", backend="shm")
    shm.create("x", 1, seal="writer")
    shm.put("x", b"1", backend="memfdd")
    shm.create("x", 1, seal="fully")

async def use_async(shm: shmclient.aio.AsyncClient) -> None:
    await shm.put("x", b"1", backend="memfdd")
    shm.create("x", 1, seal="fully")
"""


def test_type_checker_knows_the_words_of_the_options(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install 'shmhost[lint]'")
    program = tmp_path / "program.py"
    program.write_text(WRONG_CALLS)
    # In a process of its own: its millions of objects would slow each collection of the tests after this one.
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False).stdout
    assert [
        int(line.split(":")[1]) for line in out.splitlines() if "error" in line and "program" in line
    ] == [
        number
        for number, line in enumerate(WRONG_CALLS.splitlines(), 1)
        if "memfdd" in line or "fully" in line
    ], out


@pytest.mark.parametrize("name", ["list", "open_many"])
def test_sync_and_async_promise_the_same_container(name: str) -> None:
    """A Sequence cannot be sorted in place or added to: what is a list says so."""
    returns = [
        getattr(cls, name).__annotations__["return"] for cls in (shmclient.Client, shmclient.aio.AsyncClient)
    ]
    assert [text.partition("[")[0] for text in returns] == ["list", "list"]
