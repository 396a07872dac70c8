"""The containers, really run on a Docker engine: docker/compose.yaml, whose host is killed; and a fleet.

Skipped, with the reason, where no engine answers. $PYTHON_IMAGE names another base image.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import wait_until

ROOT = Path(__file__).parents[2]
BASE = os.environ.get("PYTHON_IMAGE", "python:3.11-slim-bookworm")
READERS = ("other-uid", "confined", "in-c")
MIB = 1 << 20
ROW = re.compile(r"(\S+) +(\d+) +(0x[0-9a-f]+) +(0x[0-9a-f]+) +([0-9a-f]{8}) +([\d.]+) +([\d.]+)")

pytestmark = [pytest.mark.containers, pytest.mark.alone, pytest.mark.timeout(600)]


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=500)
    if check and result.returncode:
        raise AssertionError(
            f"docker {arguments} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
        )
    return result


def why_not() -> str:
    """Return what keeps these tests from being run, or nothing."""
    if shutil.which("docker") is None:
        return "there is no docker client"
    for what, command in (("engine answers", ["version"]), ("compose plugin works", ["compose", "version"])):
        result = docker(*command, check=False)
        if result.returncode:
            return f"no Docker {what}: {(result.stderr or result.stdout).strip()[-200:]}"
    if (
        docker("image", "inspect", BASE, check=False).returncode
        and docker("pull", BASE, check=False).returncode
    ):
        return f"there is no image {BASE}, and it cannot be pulled: name another in $PYTHON_IMAGE"
    return ""


class Project:
    """The services of a file in docker/ under a name of their own."""

    def __init__(self, file: str) -> None:
        self._options = ["-p", f"shmhost-test-{os.getpid()}", "-f", str(ROOT / "docker" / file)]

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return docker("compose", *self._options, *arguments, check=check)

    def logs(self, service: str) -> str:
        return self("logs", "--no-log-prefix", service).stdout

    def inspect(self, service: str) -> dict[str, Any]:
        details: dict[str, Any] = json.loads(
            docker("inspect", self("ps", "-aq", service).stdout.strip()).stdout
        )[0]
        return details

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < deadline, f"{what}: never\n{self('logs').stdout[-4000:]}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def image() -> None:
    if reason := why_not():
        pytest.skip(f"NO CONTAINERS ARE TESTED HERE: {reason}")
    docker("compose", "-f", str(ROOT / "docker/compose.yaml"), "build", "--build-arg", f"PYTHON={BASE}")


@pytest.fixture
def project(image: None, request: pytest.FixtureRequest) -> Iterator[Project]:
    """The services of docker/compose.yaml, or of the file that a test names as its parameter."""
    running = Project(getattr(request, "param", "compose.yaml"))
    yield running
    running("down", "--volumes", "--timeout", "2")
    left = docker("ps", "-aq", "--filter", f"name=shmhost-test-{os.getpid()}").stdout
    assert left == ""


def test_demo_shows_one_copy_at_one_address_in_five_containers(project: Project) -> None:
    output = project("up", "--exit-code-from", "publisher").stdout
    parts = re.split(r"generation (\d) +\n", output)
    assert [int(number) for number in parts[1::2]] == [1, 2, 3]
    seen = set()
    for part in parts[2::2]:
        rows = [match.groups() for match in ROW.finditer(part.split("✓")[0])]
        assert [row[0] for row in rows] == ["publisher", *READERS]
        assert [row[1] for row in rows] == ["10001", "20002", "10001", "10001"]
        (spot,) = {row[2:5] for row in rows}
        seen.add(spot)
        assert all(float(row[6]) > 96 for row in rows)
        assert part.count("✓") == 3
    assert len(seen) == 3  # each generation at an address of its own
    assert "NOT SO" not in output
    for reader in READERS:
        assert re.search(rf"{reader}: generation \d, generation \d: replaced, and unchanged", output)


@pytest.mark.parametrize("project", ["fleet.compose.yaml"], indirect=True)
def test_readers_on_other_hosts_of_a_fleet_follow_pointers_at_the_same_addresses(project: Project) -> None:
    output = project("up", "--exit-code-from", "publisher").stdout
    parts = re.split(r"generation (\d) +\n", output)
    assert [int(number) for number in parts[1::2]] == [1, 2, 3]
    for part in parts[2::2]:
        rows = [match.groups() for match in ROW.finditer(part.split("✓")[0])]
        assert [row[0] for row in rows] == ["publisher", "on-middle", "in-c-on-right"]
        assert len({row[2:5] for row in rows}) == 1
        assert part.count("✓") == 2
    assert "NOT SO" not in output
    assert "Traceback" not in output
    for name in ("left", "middle", "right"):
        assert project.inspect(name)["HostConfig"]["PortBindings"] in ({}, None)
    for name in ("publisher", "on-middle", "in-c-on-right", "certificates"):
        assert project.inspect(name)["HostConfig"]["NetworkMode"] == "none"


def test_containers_share_nothing_but_the_volume_with_the_socket(project: Project) -> None:
    project("create")
    services = {name: project.inspect(name) for name in ("host", "publisher", *READERS)}
    for name, container in services.items():
        settings = container["HostConfig"]
        assert settings["IpcMode"] in ("private", ""), name
        assert (settings["PidMode"], settings["Privileged"], settings["ShmSize"]) == ("", False, 64 * MIB), (
            name
        )
        assert settings["PortBindings"] in ({}, None), name
        assert [mount["Destination"] for mount in container["Mounts"]] == ["/run/shmhost"], name
        assert container["Config"]["User"].split(":")[0] in ("10001", "20002"), name
    confined = services["confined"]
    assert confined["HostConfig"]["NetworkMode"] == "none"
    assert confined["HostConfig"]["CapDrop"] == ["ALL"]
    assert not confined["Mounts"][0]["RW"]
    assert services["other-uid"]["HostConfig"]["ReadonlyRootfs"]
    assert services["other-uid"]["Config"]["User"] == "20002:10001"


def test_readers_outlive_their_host_and_follow_the_next(project: Project) -> None:
    project("up", "--detach")
    project.until(lambda: project.inspect("publisher")["State"]["Status"] == "exited", "the publisher ends")
    assert project.inspect("publisher")["State"]["ExitCode"] == 0
    check_holders(project)
    check_memory(project)

    project("kill", "host")
    for reader in READERS:
        project.until(lambda name=reader: "the host is gone: still reading" in project.logs(name), reader)
    asked = project("exec", "confined", "shmclient", "get", "demo/words", check=False)
    assert (asked.returncode, "no host at /run/shmhost/host.sock" in asked.stderr) == (3, True)

    before = {reader: project.inspect(reader)["State"] for reader in READERS}
    lines = {reader: len(project.logs(reader)) for reader in READERS}
    project("up", "--detach", "--wait", "host")
    project("run", "--rm", "publisher")
    for reader in READERS:
        new = project.logs(reader)[lines[reader] :]
        assert f"{reader}: generation 3, generation 3: replaced, and unchanged" in new
        # The new host goes on behind what was handed back, or else behind the block of generations that
        # the one before had reserved.
        later = re.search(rf"{reader}: generation (\d+) at 0x", new.partition("replaced, and unchanged")[2])
        assert later is not None, new
        assert int(later[1]) in (4, 1003), new
        after = project.inspect(reader)["State"]
        assert (after["Pid"], after["StartedAt"]) == (before[reader]["Pid"], before[reader]["StartedAt"])
        assert "Traceback" not in new


def run_options(pod: dict[str, Any], container: dict[str, Any], folder: Path) -> list[str]:
    """Return the options of `docker run` for a container of a Kubernetes manifest."""
    rights = pod.get("securityContext", {}) | container["securityContext"]
    options = ["--user", f"{rights['runAsUser']}:{rights['runAsGroup']}", "--cap-drop", "ALL", "--init"]
    for capability in rights["capabilities"].get("add", []):
        options += ["--cap-add", capability]
    for group in pod.get("securityContext", {}).get("supplementalGroups", []):
        options += ["--group-add", str(group)]
    if rights["readOnlyRootFilesystem"]:
        options.append("--read-only")
    read_only = ":ro" if container["volumeMounts"][0].get("readOnly") else ""
    return [*options, "--volume", f"{folder}:{container['volumeMounts'][0]['mountPath']}{read_only}"]


def test_kubernetes_manifest_works_with_its_users_and_rights(image: None, tmp_path: Path) -> None:
    """Not by a cluster, but with the same users, capabilities, mounts and arguments."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    name = f"shmhost-test-{os.getpid()}-pod"
    manifest = yaml.safe_load_all((ROOT / "packaging/kubernetes/shmhost.yaml").read_text())
    (daemon,) = [
        document["spec"]["template"]["spec"] for document in manifest if document["kind"] == "DaemonSet"
    ]
    (client,) = yaml.safe_load_all((ROOT / "packaging/kubernetes/client.yaml").read_text())
    (before,), (host,) = daemon["initContainers"], daemon["containers"]
    (reader,) = client["spec"]["containers"]
    docker("run", "--rm", *run_options(daemon, before, folder), before["image"], *before["command"])
    docker(
        "run", "--detach", "--name", name, *run_options(daemon, host, folder), host["image"], *host["args"]
    )
    try:
        probe = host["readinessProbe"]["exec"]["command"]
        wait_until(lambda: docker("exec", name, *probe, check=False).returncode == 0)
        put = ["shmclient", "put", "greeting", "--mode", "640"]
        subprocess.run(["docker", "exec", "-i", name, *put], input=b"hello", check=True, timeout=60)
        get = ["shmclient", "get", "greeting"]
        asked = docker("run", "--rm", *run_options(client["spec"], reader, folder), reader["image"], *get)
        assert asked.stdout == "hello"
        assert (folder / "metrics.sock").is_socket()
        stranger = docker(
            "run",
            "--rm",
            "--user",
            "30003:30003",
            "--volume",
            f"{folder}:/run/shmhost",
            reader["image"],
            *get,
            check=False,
        )
        assert stranger.returncode == 5
    finally:
        docker("rm", "--force", name)


def check_holders(project: Project) -> None:
    """The host knows all of them, by uid; pids of other namespaces are 0."""
    rows = json.loads(project("exec", "host", "shmhost", "who", "demo/array", "--json").stdout)
    holders = [row for row in rows if row["state"] == "current"]
    assert sorted({row["uid"] for row in holders}) == [10001, 20002]
    assert {row["pid"] for row in holders} == {0}


def check_memory(project: Project) -> None:
    """The array's pages are charged to who touched them first, not to this reader, whose limit is 128 MiB."""
    script = "cat /sys/fs/cgroup/memory.current /sys/fs/cgroup/memory/memory.usage_in_bytes 2>/dev/null; true"
    used = int(project("exec", "other-uid", "sh", "-c", script).stdout.split()[0])
    assert project.inspect("other-uid")["HostConfig"]["Memory"] == 128 * MIB
    assert used < 96 * MIB
