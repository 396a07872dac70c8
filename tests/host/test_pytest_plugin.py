"""The pytest plugin, in runs of pytest of its own: fixtures, scopes, runners, and the leak check."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = "pytester"

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"
QUIET = ("-p", "no:cacheprovider", "-W", "error")


def run(pytester: pytest.Pytester, *arguments: str, **files: str) -> pytest.RunResult:
    """Run the tests of some files in a process of their own."""
    pytester.makepyfile(**files)
    return pytester.runpytest_subprocess(*QUIET, *arguments, timeout=100)


def test_plugin_imports_nothing_of_the_project_when_no_fixture_is_used(pytester: pytest.Pytester) -> None:
    outcome = run(
        pytester,
        test_plain="""
        import sys
        def test_plain(request):
            assert request.config.pluginmanager.hasplugin("shmhost")
            loaded = {name.split(".")[0] for name in sys.modules}
            assert not loaded & {"shmclient", "shmprotocol", "cffi", "msgpack", "rich"}
        """,
        conftest="",
    )
    outcome.assert_outcomes(passed=1)


def test_plugin_is_loaded_without_any_library_of_the_host() -> None:
    script = "import sys, shmhost.testing.plugin; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=60).split()
    assert "shmhost" in loaded
    assert not {"shmclient", "shmprotocol", "anyio", "cffi", "msgpack", "rich"} & set(loaded)


def test_example_of_the_documentation_passes(pytester: pytest.Pytester) -> None:
    example = re.search(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert example is not None
    outcome = run(pytester, test_example=example[1])
    outcome.assert_outcomes(passed=4)  # one of them by asyncio and trio


def test_fixtures_of_each_scope_serve_and_share(pytester: pytest.Pytester) -> None:
    outcome = run(
        pytester,
        conftest="""
        import pytest
        @pytest.fixture(scope="session")
        def shm_host_settings():
            return {"budget": "32M"}
        """,
        test_scopes="""
        import os
        import pytest
        import shmclient

        seen = []

        @pytest.fixture(scope="module")
        def table(shm_client_module):
            return shm_client_module.put("table", bytes(100))

        @pytest.mark.parametrize("time", [1, 2])
        def test_function(shm_host, shm_client, time):
            assert not shm_client.exists("a")
            shm_client.put("a", b"1")  # goes with its host
            with shmclient.connect() as other:  # as a program under test does
                assert bytes(other.get("a")) == b"1"
            seen.append(shm_host.pid)

        @pytest.mark.parametrize("time", [1, 2])
        def test_module(shm_host_module, shm_client_module, table, time):
            assert shm_client_module.exists("table")  # no leak: it was there before the test
            seen.append(shm_host_module.pid)

        @pytest.mark.parametrize("time", [1, 2])
        def test_session(shm_host_session, shm_client_session, time):
            with pytest.raises(shmclient.QuotaExceeded):
                shm_client_session.put("a", bytes(32 << 20))
            seen.append(shm_host_session.pid)

        def test_hosts():
            assert len(seen) == 6 and len(set(seen)) == 4
            assert seen[2] == seen[3] and seen[4] == seen[5]
            assert "SHMHOST_SOCKET" in os.environ  # of the session's host
        """,
    )
    outcome.assert_outcomes(passed=7)


OWN = "shm_host, shm_client"
LEAKS = {
    "lease": (OWN, "kept.append(shm_client.put('held', bytes(9000)).data)"),
    "view": (OWN, "shm_client.put('seen', bytes(9000)); kept.append(shm_client.get('seen'))"),
    "builder": (OWN, "kept.append(shm_client.create('half', 100)); kept[-1].__enter__()"),
    "client": ("shm_host", "kept.append(shmclient.connect()); kept[-1].list()"),
    "name": ("shm_client_module", "shm_client_module.put('stays', b'1').close()"),
    "session_name": ("shm_client_session", "shm_client_session.put('lasts', b'1').close()"),
}
NAMED = {
    "lease": ["*a lease of region 'held' generation 1, of pid *", "*a mapping of held, * bytes at 0x*"],
    "view": ["*a lease of region 'seen'*", "*a mapping of seen*"],
    "builder": ["*region 'half' is being created: leave its builder*"],
    "client": ["*a client is connected*"],
    "name": ["*region 'stays' generation 1: unlink it*"],
    "session_name": ["*region 'lasts' generation 1: unlink it*"],
}


# A leak stays: it is looked at until then, all the time.
SOON = "import shmhost.testing.leaks\nshmhost.testing.leaks.SETTLING_S = 1.5\n"
FAILING = ("view", "name", "session_name")  # one with a host of its own, and those with hosts that go on


def source_of(kind: str) -> str:
    """Return a test that leaks, and for some a clean one behind it, and one that fails for another reason."""
    fixtures, leak = LEAKS[kind]
    leaking = f"""
def test_{kind}_leak({fixtures}):
    {leak}
"""
    if kind not in FAILING:
        return leaking
    return f"""{leaking}
def test_{kind}_clean({fixtures}):
    pass

def test_{kind}_failure({fixtures}):
    kept = []
    {leak.replace("stays", "fails").replace("lasts", "fails")}
    assert False, "by itself"
"""


def test_test_fails_with_the_names_of_what_it_leaves(pytester: pytest.Pytester) -> None:
    """Clean tests behind it pass, and one that fails by itself is not blamed for what its frames hold."""
    text = "import shmclient\nkept = []\n" + "".join(source_of(kind) for kind in LEAKS)
    outcome = run(pytester, "-W", "ignore::ResourceWarning", test_leaks=text, conftest=SOON)
    outcome.assert_outcomes(passed=len(LEAKS) + len(FAILING), failed=len(FAILING), errors=len(LEAKS))
    for kind, lines in NAMED.items():
        head = [f"*ERROR at teardown of test_{kind}_leak*", "*the test leaves behind:*"]
        outcome.stdout.fnmatch_lines([*head, *lines])


RUNNERS = {
    "anyio": "@pytest.mark.anyio",
    "asyncio": "@pytest.mark.asyncio",
    "run": "@by_asyncio_run",
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_async_client_works_with_each_runner(runner: str, pytester: pytest.Pytester) -> None:
    if runner == "asyncio" and importlib.util.find_spec("pytest_asyncio") is None:
        pytest.skip("pytest-asyncio is not installed")
    options = ("-o", "asyncio_default_fixture_loop_scope=function") if runner == "asyncio" else ()
    outcome = run(
        pytester,
        *options,
        test_async=f"""
        import asyncio, functools
        import pytest

        def by_asyncio_run(function):
            return functools.wraps(function)(lambda **fixtures: asyncio.run(function(**fixtures)))

        {RUNNERS[runner]}
        async def test_async(shm_host, shm_async_client):
            await shm_async_client.put("a", b"1")
            assert bytes(await shm_async_client.get("a")) == b"1"

        {RUNNERS[runner]}
        async def test_async_again(shm_async_client):
            assert not await shm_async_client.exists("a")
        """,
    )
    outcome.assert_outcomes(passed=4 if runner == "anyio" else 2)  # asyncio and trio


def test_workers_of_xdist_have_hosts_of_their_own(pytester: pytest.Pytester) -> None:
    outcome = run(
        pytester,
        "-n",
        "2",
        test_workers="""
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_session(shm_host_session, shm_client_session, number):
            name = "same name"
            shm_client_session.put(name, bytes([number])).close()
            assert bytes(shm_client_session.get(name)) == bytes([number])
            shm_client_session.unlink(name)
        """,
    )
    outcome.assert_outcomes(passed=6)


def test_faults_on_a_host_that_goes_on_leave_no_leak(pytester: pytest.Pytester) -> None:
    outcome = run(
        pytester,
        test_faults="""
        import pytest
        import shmclient

        @pytest.mark.parametrize("time", [1, 2])
        def test_faults(shm_host_module, time):
            with shmclient.connect() as client:
                with shm_host_module.fill(), pytest.raises(shmclient.QuotaExceeded):
                    client.put("a", bytes(9000))
                client.put("a", bytes(9000)).close()
                shm_host_module.takeover()
                client.unlink("a")

        def test_killed(shm_host, shm_client):
            shm_client.put("a", b"1")
            shm_host.kill()

        def test_stopped(shm_host, shm_client):
            shm_host.stop()
        """,
    )
    outcome.assert_outcomes(passed=4)


def test_log_of_the_host_is_shown_with_a_failure(pytester: pytest.Pytester) -> None:
    outcome = run(pytester, test_log="def test_log(shm_host):\n    assert False")
    outcome.assert_outcomes(failed=1)
    outcome.stdout.fnmatch_lines(["*listening on *host.sock*"])
