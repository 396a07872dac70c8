"""Hosts for tests, `shmhost.testing`: each fault does what it says, and is undone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

import shmclient
from shmhost.testing import HostProcess, Leftovers
from shmprotocol.errors import HostError


@pytest.fixture
def process() -> Iterator[HostProcess]:
    with HostProcess(budget="64M") as running:
        yield running


@pytest.fixture
def client(process: HostProcess) -> Iterator[shmclient.Client]:
    with shmclient.connect(process.socket_path) as client:
        yield client


def test_names_are_back_when_a_killed_host_starts_again(
    process: HostProcess, client: shmclient.Client
) -> None:
    region = client.put("config", b"one")
    value = client.get("config")
    process.kill()
    assert bytes(value) == b"one"  # what is mapped stays
    with pytest.raises(shmclient.HostGone):
        client.list()
    process.start()
    assert bytes(client.get("config", wait=30)) == b"one"
    region.close()


def test_pid_of_a_killed_host_says_that_it_was_killed(process: HostProcess) -> None:
    pid = process.pid
    process.kill()
    with pytest.raises(HostError, match="start"):
        _ = process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_running_host_is_not_started_again(process: HostProcess) -> None:
    with pytest.raises(HostError, match="kill"):
        process.start()


def test_stopped_host_answers_nothing_until_it_goes_on(process: HostProcess) -> None:
    with shmclient.connect(process.socket_path, timeout=0.2) as client:
        client.put("a", b"1").close()
        with process.stop(), pytest.raises(shmclient.HostTimeout):
            client.stat("a")
    with shmclient.connect(process.socket_path) as client:
        assert client.stat("a").size == 1


def test_successor_serves_the_same_clients_after_a_takeover(
    process: HostProcess, client: shmclient.Client
) -> None:
    pid = process.pid
    region = client.put("a", b"1")
    process.takeover()
    assert process.pid != pid
    assert client.stat("a").generation == region.generation
    assert bytes(client.put("b", b"2").data) == b"2"


def test_names_are_refused_by_their_prefix_until_they_are_allowed(
    process: HostProcess, client: shmclient.Client
) -> None:
    with process.refuse("models/"):
        with pytest.raises(shmclient.AccessDenied, match=r"refuse\(\) of a test"):
            client.put("models/a", b"1")
        client.put("frames/a", b"1")
    client.put("models/a", b"1")


@pytest.mark.parametrize("number", [0, 1])
def test_limit_is_refused_beyond_and_not_at_it(
    process: HostProcess, client: shmclient.Client, number: int
) -> None:
    process.refuse(regions=number)
    regions = [client.put(f"{index}", b"1") for index in range(number)]
    with pytest.raises(shmclient.QuotaExceeded):
        client.put("over", b"1")
    process.allow()
    client.put("over", b"1")
    assert len(regions) == number


def test_everything_is_refused_without_arguments(process: HostProcess, client: shmclient.Client) -> None:
    process.refuse()
    with pytest.raises(shmclient.AccessDenied):
        client.put("a", b"1")
    process.allow()
    client.put("a", b"1")


def test_wrong_limit_is_refused_and_changes_nothing(process: HostProcess, client: shmclient.Client) -> None:
    with pytest.raises(shmclient.InvalidArgument, match="use bytes"):
        process.refuse(elephants=1)
    client.put("a", b"1")


def test_full_host_takes_what_is_left_and_no_page_more(
    process: HostProcess, client: shmclient.Client
) -> None:
    with process.fill():
        with pytest.raises(shmclient.QuotaExceeded):
            client.put("a", bytes(4096))
        assert client.list() == []
    client.put("a", bytes(4096)).close()
    with process.fill(leave=1 << 20):
        client.put("b", bytes(1 << 19)).close()
        with pytest.raises(shmclient.QuotaExceeded):
            client.put("c", bytes(1 << 20))


def test_one_client_each_of_two_hosts_follow_pointers_of_both(process: HostProcess) -> None:
    """Their addresses differ, so both are mapped where they belong."""
    with HostProcess() as other:
        clients = [shmclient.connect(each.socket_path) for each in (process, other)]
        regions = [client.put("a", b"1") for client in clients]
        assert not {region.address for region in regions} & {0}
        assert regions[0].address != regions[1].address
        for client in clients:
            client.close()


def test_host_that_cannot_start_says_why_and_leaves_no_folder() -> None:
    with pytest.raises(HostError, match="elephants"):
        HostProcess(elephants=1)


def test_host_starts_without_the_libraries_of_the_command_line() -> None:
    script = """
import sys
from shmhost.testing import __main__
print(*{name.split(".")[0] for name in sys.modules})
"""
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=60).split()
    assert "anyio" in loaded
    assert not {"rich", "click", "rich_click"} & set(loaded)


def test_host_ends_when_the_process_of_the_tests_is_killed() -> None:
    script = """
import os, signal
from shmhost.testing import HostProcess
host = HostProcess()
print(host.pid, host.socket_path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    pid, path = ended.stdout.split()
    watched = os.pidfd_open(int(pid)) if os.path.exists(f"/proc/{pid}") else None
    if watched is not None:
        assert select.select([watched], [], [], 30)[0] or not os.path.exists(path)
        os.close(watched)
    with pytest.raises(shmclient.HostGone):
        shmclient.connect(path)


def test_leftovers_are_named_until_they_go(process: HostProcess, client: shmclient.Client) -> None:
    before = Leftovers(process, names=True)
    region = client.put("weights", bytes(10_000))
    assert region.data
    builder = client.create("unfinished", 100)
    builder.__enter__()
    text = "\n".join(before._new().values())
    for line in (
        "region 'weights' generation 1: unlink it",
        "a lease of region 'weights'",
        "a mapping of weights",
    ):
        assert line in text
    assert "region 'unfinished' is being created" in text
    with pytest.raises(ZeroDivisionError):
        builder.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        1 / 0
    client.unlink("weights")
    region.close()
    del region, builder
    assert before.since() == []
