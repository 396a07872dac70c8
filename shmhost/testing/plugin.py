"""The pytest plugin: hosts, clients and an async client as fixtures, and a leak check behind each test.

Loaded in each run of pytest: imports nothing but pytest, until a fixture is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from shmclient import Client
    from shmclient.aio import AsyncClient
    from shmhost.testing.leaks import Leftovers
    from shmhost.testing.process import HostProcess

Scope = Literal["module", "session"]
_PASSED = pytest.StashKey[bool]()
_SHARED: dict[str, _Shared] = {}  # the hosts of several tests, by the names of their fixtures


class _Shared:
    """A host of several tests, and what was there when the last test began; None once that has failed."""

    def __init__(self, host: HostProcess) -> None:
        self.host = host
        self.before: Leftovers | None = None


@pytest.fixture(scope="session")
def shm_host_settings() -> dict[str, object]:
    """Return the settings of all hosts: override it, such as with {"budget": "64M"}."""
    return {}


@pytest.fixture
def shm_host(request: pytest.FixtureRequest, shm_host_settings: dict[str, object]) -> Iterator[HostProcess]:
    """Give a host that is this test's own; $SHMHOST_SOCKET names it. Fails the test if it leaves anything."""
    from shmhost.testing.leaks import Leftovers

    with _serving(shm_host_settings) as host:
        before = Leftovers(host, names=False)
        yield host
        if request.node.stash.get(_PASSED, False):
            _report(before)


def _shared_host(scope: Scope) -> Callable[..., Any]:
    name = f"shm_host_{scope}"

    @pytest.fixture(scope=scope, name=name)
    def fixture(shm_host_settings: dict[str, object]) -> Iterator[HostProcess]:
        """Give a host that several tests share; each fails if it leaves anything, published names too."""
        with _serving(shm_host_settings) as host:
            _SHARED[name] = shared = _Shared(host)
            try:
                yield host
            finally:
                del _SHARED[name]
            _report(shared.before)  # of the last test, whose end is behind this

    return fixture


shm_host_module: Callable[..., Any] = _shared_host("module")
shm_host_session: Callable[..., Any] = _shared_host("session")


@pytest.fixture
def shm_client(shm_host: HostProcess) -> Iterator[Client]:
    """Give a client of `shm_host`."""
    yield from _client(shm_host)


@pytest.fixture(scope="module")
def shm_client_module(shm_host_module: HostProcess) -> Iterator[Client]:
    """Give a client of `shm_host_module`."""
    yield from _client(shm_host_module)


@pytest.fixture(scope="session")
def shm_client_session(shm_host_session: HostProcess) -> Iterator[Client]:
    """Give a client of `shm_host_session`."""
    yield from _client(shm_host_session)


@pytest.fixture
def shm_async_client(shm_host: HostProcess) -> Iterator[AsyncClient]:
    """Give an async client of `shm_host`, which connects with its first request.

    So the fixture itself runs in no event loop, and any runner will do: anyio's plugin, pytest-asyncio,
    pytest-trio, or `asyncio.run` in the test.
    """
    from shmclient.aio import AsyncClient

    client = AsyncClient(shm_host.socket_path)
    yield client
    _run_at_once(client.aclose())


def _run_at_once(coroutine: Any) -> None:
    """Run a coroutine that waits for nothing: the test's loop is over, and here may be another one."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError("closing a client waits for nothing")


def _client(host: HostProcess) -> Iterator[Client]:
    import shmclient

    with shmclient.connect(host.socket_path) as client:
        yield client


class _serving:  # noqa: N801  # reads as the context manager that it is
    """A host while a `with` block runs, and its name in the environment. Shows its log at the end."""

    def __init__(self, settings: dict[str, object]) -> None:
        self._settings = settings

    def __enter__(self) -> HostProcess:
        from shmhost.testing.process import HostProcess

        self._host = HostProcess(**self._settings)
        self._before = os.environ.get("SHMHOST_SOCKET")
        os.environ["SHMHOST_SOCKET"] = self._host.socket_path
        return self._host

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            os.environ.pop("SHMHOST_SOCKET", None)
        else:
            os.environ["SHMHOST_SOCKET"] = self._before
        self._host.close()
        print("\n".join(self._host.log), file=sys.stderr)  # pytest shows it with a failure


def _report(before: Leftovers | None) -> None:
    left = before.since() if before is not None else []
    if left:
        lines = "\n".join(f"  {line}" for line in left)
        pytest.fail(f"the test leaves behind:\n{lines}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Note what is there when a test begins, and whether it passes: a failure keeps its frames alive."""
    for shared in _shared_by(item):
        from shmhost.testing.leaks import Leftovers

        shared.before = Leftovers(shared.host, names=True)
    try:
        result = yield
    except BaseException:
        for shared in _shared_by(item):
            shared.before = None
        raise
    item.stash[_PASSED] = True
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Look for what a test has left in the hosts that go on."""
    result = yield
    for shared in _shared_by(item):
        _report(shared.before)
    return result


def _shared_by(item: pytest.Item) -> list[_Shared]:
    return [_SHARED[name] for name in getattr(item, "fixturenames", ()) if name in _SHARED] if _SHARED else []
