"""The error tree: whose doing an error is, what it is besides, and what an OSError of it has."""

from __future__ import annotations

import errno
import pickle
import re
from pathlib import Path

import pytest

import shmclient
from shmprotocol import errors
from shmprotocol.errors import ShmError, about, again, exit_code

DOCUMENT = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| (.*?) \|(?: (\w+))? \|", DOCUMENT, re.MULTILINE)
PUBLIC = [
    value for value in vars(shmclient).values() if isinstance(value, type) and issubclass(value, ShmError)
]


def test_document_has_each_public_error() -> None:
    assert {name for name, _, _ in ROWS} | {"ShmError"} == {error.__name__ for error in PUBLIC}


@pytest.mark.parametrize(("name", "bases", "number"), ROWS)
def test_error_is_what_the_document_says(name: str, bases: str, number: str) -> None:
    kind = getattr(errors, name)
    documented = re.findall(r"`(\w+)`", bases)
    assert [base.__name__ for base in kind.__bases__ if base is not ShmError] == documented
    assert getattr(kind("x"), "errno", None) == (getattr(errno, number) if number else None)


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_oserror_has_number_and_text(kind: type[ShmError]) -> None:
    """`print(error.strerror)` is what programs do with an OSError that they know nothing of."""
    error = kind("what happened, and what to do", filename="a/name")
    assert str(error) == "what happened, and what to do"
    if isinstance(error, OSError):
        assert (error.strerror, error.filename) == (str(error), "a/name")
        assert error.errno in errno.errorcode


@pytest.mark.parametrize("copy", [again, lambda error: pickle.loads(pickle.dumps(error))])
def test_copy_of_an_error_is_like_it(copy: object) -> None:
    error = errors.HostGone("gone", errno=errno.EPIPE, filename="/run/s")
    new = copy(error)  # type: ignore[operator]
    assert (type(new), str(new), new.errno, new.filename) == (errors.HostGone, "gone", errno.EPIPE, "/run/s")


def test_error_keeps_its_number_when_it_gets_a_name() -> None:
    error = about(errors.OutOfMemory("full", errno=errno.ENOSPC), "x")
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ENOSPC, "x")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        *[("HostGone", 3), ("RegionNotFound", 4), ("AccessDenied", 5), ("RegionTimeout", 6)],
        *[("WaitTimeout", 6), ("HostTimeout", 6), ("ClientClosed", 1), ("HostError", 1)],
    ],
)
def test_exit_code_tells_what_a_script_can_act_on(kind: str, code: int) -> None:
    assert exit_code(getattr(errors, kind)("x")) == code
