"""A real systemd, the user unit of the package, and a host that is killed, restarted, reloaded and stopped.

It runs as a user manager in namespaces of its own, on a machine that has no systemd running: in a container.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "packaging" / "systemd" / "user"
CGROUPS = Path("/sys/fs/cgroup")
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

INSIDE = """
import json, os, pathlib, shutil, signal, subprocess, sys, time
import shmclient

units, program = pathlib.Path(sys.argv[1]), sys.argv[2]
for arguments in (["--make-rprivate", "/"], ["-t", "tmpfs", "tmpfs", "/run"]):
    subprocess.run(["mount", *arguments], check=True)
os.environ.update(XDG_RUNTIME_DIR="/run/user", XDG_CONFIG_HOME="/run/config", HOME="/run")
folder = pathlib.Path("/run/config/systemd/user")
for path in (folder, pathlib.Path("/run/user"), pathlib.Path("/run/systemd/system")):
    path.mkdir(parents=True)
for path in units.iterdir():
    (folder / path.name).write_text(path.read_text().replace("/usr/bin/shmhost", program))

def ask(*arguments, check=True):
    command = ["systemctl", "--user", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=check, timeout=60)
    return done.stdout.strip()

def wait_until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, pathlib.Path("/run/log").read_text()
        time.sleep(0.02)

manager = shutil.which("systemd") or "/lib/systemd/systemd"
log = open("/run/log", "w")
subprocess.Popen([manager, "--user", "--unit=basic.target", "--log-target=console"], stdout=log, stderr=log)
wait_until(lambda: ask("is-system-running", check=False) == "running")
ask("start", "shmhost.socket")

def names():
    with shmclient.connect("/run/user/shmhost/host.sock", wait=60) as shm:
        return {info.name: [info.generation, oct(info.mode), value_of(shm, info.name)]
                for info in shm.list()}

def value_of(shm, name):
    return bytes(shm.get("camera/front" if name == "camera" else name)).decode()

def stored():
    return int(ask("show", "shmhost.service", "--property=NFileDescriptorStore", "--value"))

def main():
    return int(ask("show", "shmhost.service", "--property=MainPID", "--value"))

with shmclient.connect("/run/user/shmhost/host.sock") as shm:
    for number in range(5):
        shm.put(f"n{number}", b"%d" % number * 1000, mode=0o640).close()
    shm.put("n1", b"next").close()
    with shm.create("file", 10, backend="shm") as builder:
        builder.data[:] = b"0123456789"
    del builder  # it holds the region
    with shm.arena("camera", size=1 << 20, mode=0o640) as arena:
        arena["front"] = b"kept"
wait_until(lambda: stored() == 7)
seen = {"at first": names()}

def kill():
    before = main()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: main() not in (0, before))

def reload():
    before = main()
    ask("reload", "shmhost.service")
    wait_until(lambda: main() not in (0, before))

for what in ("killed", "restarted", "reloaded", "killed again"):
    if what == "restarted":
        ask("restart", "shmhost.service")
    elif what == "reloaded":
        reload()
    else:
        kill()
    seen[what] = names()
    wait_until(lambda: stored() == 7)
with shmclient.connect("/run/user/shmhost/host.sock") as shm:
    shm.unlink("n0")
wait_until(lambda: stored() == 6)
ask("stop", "shmhost.service")
seen["stored when stopped"] = stored()
seen["stopped"] = names()
print(json.dumps(seen))
"""


@pytest.fixture
def cgroups() -> Iterator[None]:
    """Remove the cgroups that the manager leaves."""
    before = set(CGROUPS.glob("*/*")) | set(CGROUPS.glob("*"))
    yield
    for top in set(CGROUPS.glob("*/*")) | set(CGROUPS.glob("*")):
        if top not in before and top.is_dir():
            for folder, _, _ in os.walk(top, topdown=False):
                os.rmdir(folder)


def skip_without_systemd() -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("the machine's own systemd runs")
    if os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists():
        pytest.skip("needs root, and an installed systemd that does not run")
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("there are no namespaces")


def test_names_outlive_a_host_under_systemd(cgroups: None) -> None:
    skip_without_systemd()
    program = shutil.which("shmhost", path=Path(sys.executable).parent)
    assert program is not None
    command = [*UNSHARE, sys.executable, "-c", INSIDE, str(UNITS), program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    first = seen["at first"]
    assert {name: value for name, (_, _, value) in first.items()} == {
        "n0": "0" * 1000,
        "n1": "next",
        **{f"n{number}": str(number) * 1000 for number in (2, 3, 4)},
        "file": "0123456789",
        "camera": "kept",
    }
    for what in ("killed", "restarted", "reloaded", "killed again"):
        assert seen[what] == first, what
    assert seen["stored when stopped"] == 0
    assert seen["stopped"] == {}
