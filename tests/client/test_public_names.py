"""The public classes have the names listed here and no others, and each has a docstring."""

from __future__ import annotations

import inspect

import pytest

import shmclient
import shmclient.aio

HANDLE = (
    "address capacity close data fileno generation header is_current is_relocated metadata name number root "
    "size translate"
)
NAMES = {
    shmclient.Client: "chmod close create fileno follow get list open open_many put stat unlink watch",
    shmclient.aio.AsyncClient: "aclose chmod create follow get list open open_many put stat unlink watch",
    shmclient.Region: HANDLE,
    shmclient.aio.AsyncRegion: HANDLE,
    shmclient.RegionBuilder: "alloc array bytes data data_address fileno new set_root",
    shmclient.Watch: "close",
    shmclient.Follow: "close",
    shmclient.aio.AsyncWatch: "aclose close",
    shmclient.aio.AsyncFollow: "aclose close",
    shmclient.Pinner: "iovec pin pin_graph unpin",
    shmclient.Pinned: "address overlaps readonly size store unpin",
    shmclient.IoVec: "address nbytes overlaps unpin",
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


def test_builder_shows_no_other_attributes(shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder:
        assert public(sorted(vars(builder))) == ["address", "capacity", "name", "region", "size"]


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
    ],
)
def test_constructor_says_who_makes_it(cls: type, way: str) -> None:
    with pytest.raises(TypeError, match=way):
        cls()
