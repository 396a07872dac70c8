"""Fixtures: a private host, clients of it, and both async backends."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis  # before collection ends: its set-up asks the collector, which does not see what is frozen
import pytest

import shmclient
from arena_programs import PROGRAMS
from arena_support import ArenaPeer
from shmprotocol.wire import messages as m
from support import Machine, WatchedHost, wait_until, watched_host

# `make fuzz` chooses "fuzz": some minutes a test instead of a second. "few" is for what is run a second time,
# with sanitizers. None has a limit of time, because a loaded machine is not a fault of the code.
TIMELESS: Any = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("default", **TIMELESS)
hypothesis.settings.register_profile("few", max_examples=20, **TIMELESS)
hypothesis.settings.register_profile("fuzz", max_examples=20_000, print_blob=True, **TIMELESS)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The modules whose tests need no other process and no socket: `make unit` runs these alone.
UNIT = frozenset(
    [
        "test_accounts",
        "test_compare",
        "test_config",
        "test_current",
        "test_deadline",
        "test_gate",
        "test_hub",
        "test_intervals",
        "test_keys",
        "test_kubernetes",
        "test_measure",
        "test_messages",
        "test_names",
        "test_operations",
        "test_page",
        "test_posix_errnos",
        "test_records",
        "test_regions",
        "test_results",
        "test_session",
        "test_session_endings",
        "test_sources",
        "test_top",
        "test_transfer",
        "test_window",
    ]
)
OUTSIDE = ("socket.socket", "subprocess.Popen", "os.fork", "os.posix_spawn")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no other files for `make unit`: they take half of its time."""
    is_other = collection_path.suffix == ".py" and collection_path.stem not in UNIT
    return True if is_other and config.getoption("markexpr") == "unit" else None


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of the programs that tests compile: workers inherit its name."""
    if not hasattr(config, "workerinput"):
        os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="shmhost-programs-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(PROGRAMS), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make unit` runs."""
    for item in items:
        if item.path.stem in UNIT:
            item.add_marker(pytest.mark.unit)


@pytest.fixture(autouse=True)
def _unit_stays_inside(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold unit tests to their mark: no process and no socket."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("unit"):
            for name in OUTSIDE:
                patch.setattr(name, _refuse)
        yield


def _refuse(*arguments: object, **_options: object) -> None:
    pytest.fail(f"a unit test starts no process and opens no socket: {arguments!r:.80}")


def pytest_collection_finish() -> None:
    """Leave out what lives to the end anyway: each collection below would look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _heap_of_earlier_modules() -> None:
    """Leave out what earlier modules added for good: pytest's reports, imports, caches of hypothesis.

    Their fixtures are gone here. Without this, the collection before the last tests takes 70 ms each.
    """
    gc.collect()
    gc.collect()  # what only the first one's objects held, by types in C that it does not look through
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_views_of_other_tests(request: pytest.FixtureRequest) -> None:
    """Collect what earlier tests left in reference cycles: it would keep addresses of its host."""
    if request.node.get_closest_marker("unit") is None:
        gc.collect()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[WatchedHost]:
    with watched_host(str(tmp_path / "host.sock")) as running:
        yield running


@pytest.fixture
def open_host() -> Iterator[WatchedHost]:
    """A host whose socket lies where every user can reach it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with watched_host(f"{folder}/h.sock", socket_mode=0o666) as running:
            yield running


@pytest.fixture
def shm(host: WatchedHost) -> Iterator[shmclient.Client]:
    with shmclient.connect(host.socket_path) as client:
        yield client


@pytest.fixture
def owner(host: WatchedHost) -> Iterator[ArenaPeer]:
    with ArenaPeer(host.socket_path) as peer:
        yield peer


@pytest.fixture
def reader(host: WatchedHost) -> Iterator[ArenaPeer]:
    with ArenaPeer(host.socket_path) as peer:
        yield peer


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    running = Machine(tmp_path / "h.sock")
    running.start()
    yield running
    running.kill()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def leaves_nothing(host: WatchedHost) -> Iterator[None]:
    """See that the host is as before when all clients of a test, and the names that they kept, are gone."""
    before = host.counts()
    yield
    with ArenaPeer(host.socket_path) as peer:
        reply, _ = peer.ask(m.List(9, "", ""))
        assert isinstance(reply, m.Listed)
        for info in reply.regions:
            peer.ask(m.Unlink(9, info.name))
    wait_until(lambda: host.is_back_at(before), shown=lambda: (before, host.counts()))
