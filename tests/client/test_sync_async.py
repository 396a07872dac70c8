"""Both clients have the same methods with the same parameters: code can move between them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import shmclient
import shmclient.aio
from shmclient.aio import AsyncClient
from support import WatchedHost

TWINS = [
    (shmclient.Client, AsyncClient),
    (shmclient.Region, shmclient.aio.AsyncRegion),
    (shmclient.Watch, shmclient.aio.AsyncWatch),
    (shmclient.Follow, shmclient.aio.AsyncFollow),
]
# What one of the two has alone, and why.
EXCEPTED = {
    "Client.fileno": "the event loop watches the socket of an async client; others must not",
    "Client.close": "`aclose`, as async code and contextlib.aclosing expect",
    "AsyncClient.aclose": "see Client.close",
    "AsyncWatch.aclose": "for contextlib.aclosing; `close` is there too, and does not wait",
    "AsyncFollow.aclose": "see AsyncWatch.aclose",
}
AT_ONCE = ("create", "follow", "watch")  # these wait only once they are entered or iterated


def names(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def shape(function: object) -> list[str]:
    """Return the parameters with kinds, defaults and types, and that of the result, in sync terms."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    parts = [f"{parameter.kind.name} {parameter}" for parameter in signature.parameters.values()]
    return [re.sub(r"\bAsync", "", part) for part in [*parts, str(signature.return_annotation)]]


@pytest.mark.parametrize(("sync", "other"), TWINS, ids=lambda cls: cls.__name__)
def test_twins_have_the_same_names_but_for_the_excepted_ones(sync: type, other: type) -> None:
    alone = {f"{sync.__name__}.{name}" for name in names(sync) - names(other)}
    alone |= {f"{other.__name__}.{name}" for name in names(other) - names(sync)}
    assert alone == {name for name in EXCEPTED if name.split(".")[0] in (sync.__name__, other.__name__)}


def test_is_current_in_c_has_no_parameters() -> None:
    assert shape(shmclient.Region.is_current)[0] == "POSITIONAL_ONLY self"
    assert shape(shmclient.aio.AsyncRegion.is_current) == ["POSITIONAL_OR_KEYWORD self", "bool"]


@pytest.mark.parametrize(("sync", "other"), TWINS, ids=lambda cls: cls.__name__)
def test_twins_have_the_same_signatures(sync: type, other: type) -> None:
    methods = [name for name in sorted(names(sync) & names(other)) if inspect.isfunction(getattr(sync, name))]
    assert [(name, shape(getattr(sync, name))) for name in methods] == [
        (name, shape(getattr(other, name))) for name in methods
    ]


def test_connect_and_the_clients_take_the_same_options() -> None:
    functions = [shmclient.Client, AsyncClient, shmclient.connect, shmclient.aio.connect]
    options = [shape(function)[:-1] for function in functions]
    assert options == [options[0]] * 4


def test_each_request_of_the_async_client_is_awaited() -> None:
    methods = names(AsyncClient).difference(AT_ONCE)
    assert [name for name in methods if not inspect.iscoroutinefunction(getattr(AsyncClient, name))] == []


def test_durations_are_called_wait_or_timeout_and_are_seconds() -> None:
    functions = [getattr(cls, name) for pair in TWINS for cls in pair for name in ("__init__", *names(cls))]
    functions += [shmclient.connect, shmclient.aio.connect]
    floats = {
        parameter.name
        for function in functions
        if callable(function)
        for parameter in inspect.signature(function).parameters.values()
        if "float" in str(parameter.annotation)
    }
    assert floats == {"wait", "timeout", "timeout_s"}  # the last is the former name of `timeout`


@pytest.mark.anyio
async def test_former_name_of_timeout_is_taken(host: WatchedHost, anyio_backend: str) -> None:
    for timeout in ({"timeout": -1}, {"timeout_s": -1}, {"timeout": 1, "timeout_s": -1}):
        for make in (shmclient.Client, shmclient.connect, AsyncClient):
            with pytest.raises(shmclient.InvalidArgument, match="timeout is a positive number of seconds"):
                make(host.socket_path, **timeout)
        with pytest.raises(shmclient.InvalidArgument, match="timeout is a positive number of seconds"):
            await shmclient.aio.connect(host.socket_path, **timeout)


@pytest.mark.anyio
async def test_exists_says_what_in_says(host: WatchedHost, anyio_backend: str) -> None:
    with shmclient.connect(host.socket_path) as shm:
        async with AsyncClient(host.socket_path) as ashm:
            for is_there in (False, True):
                if is_there:
                    shm.put("x", b"1")
                assert ("x" in shm, shm.exists("x"), await ashm.exists("x")) == (is_there,) * 3
            with pytest.raises(shmclient.InvalidArgument):
                await ashm.exists("")


@pytest.mark.anyio
async def test_block_of_a_client_connects_and_waits_for_a_host(tmp_path: Path, anyio_backend: str) -> None:
    path = tmp_path / "h.sock"
    with pytest.raises(shmclient.HostGone):
        async with AsyncClient(path):
            raise AssertionError("there is no host")
    with pytest.raises(shmclient.WaitTimeout, match=r"within 0\.05 s"):
        async with AsyncClient(path, wait=0.05):
            raise AssertionError("there is no host")
