"""The units and their neighbours: read as text always, and by systemd's own tools where they are."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
from shmhost.cli import cli
from shmhost.core.stored import MAX_STORED
from shmprotocol.wire.paths import socket_path
from support import wait_until

ROOT = Path(__file__).parents[2]
SYSTEM = ROOT / "packaging" / "systemd"
USER = SYSTEM / "user"
MANAGERS = pytest.mark.parametrize("folder", [SYSTEM, USER], ids=["system", "user"])
RUNTIME = {SYSTEM: "/run", USER: "/run/user/1000"}  # what %t stands for, systemd.unit(5)
HARDENING = {
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "NoNewPrivileges": "yes",
    "RestrictAddressFamilies": "AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM",
    "SystemCallFilter": "@system-service pidfd_getfd",
    "UMask": "0077",
}
SYSTEM_HARDENING = {
    "CapabilityBoundingSet": "",
    "IPAddressDeny": "any",
    "PrivateDevices": "yes",
    "PrivateNetwork": "yes",
    "PrivateTmp": "yes",
    "ProcSubset": "pid",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
}
# What makes, seals, passes and maps a region.
SYSCALLS = {
    "memfd_create", "ftruncate", "fallocate", "fcntl", "fchmod", "pread64", "pwrite64", "mmap", "munmap",
    "accept4", "sendmsg", "recvmsg", "getsockopt", "epoll_wait", "pidfd_open", "openat", "rename", "unlink",
    "close_range", "pidfd_getfd",
}  # fmt: skip
EXPOSURE_MAX = 10  # of 100; 8 with systemd 252


def unit(folder: Path, name: str) -> dict[str, dict[str, str]]:
    """Return the sections of a unit; a key that is given twice fails."""
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((folder / name).read_text("ascii"))
    return {section: dict(parser[section]) for section in parser.sections()}


def service(folder: Path) -> dict[str, str]:
    return unit(folder, "shmhost.service")["Service"]


def stream(folder: Path) -> str:
    return unit(folder, "shmhost.socket")["Socket"]["ListenStream"]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install systemd)")
    return path


# --- the text ---


@MANAGERS
def test_service_is_hardened(folder: Path) -> None:
    options = service(folder)
    assert {key: options.get(key) for key in HARDENING} == HARDENING


def test_system_service_is_hardened_further() -> None:
    options = service(SYSTEM)
    assert {key: options.get(key) for key in SYSTEM_HARDENING} == SYSTEM_HARDENING


@MANAGERS
def test_service_keeps_the_uids_of_its_peers(folder: Path) -> None:
    """In a user namespace every other uid is 65534, and regions are guarded by uid."""
    assert "PrivateUsers" not in service(folder)


def test_user_service_has_no_setting_that_brings_a_user_namespace() -> None:
    """What a user manager can mount it can mount in a user namespace alone, systemd.exec(5)."""
    unwanted = ("Private", "Protect", "ReadOnly", "ReadWrite", "Bind", "Inaccessible", "TemporaryFileSystem")
    assert [key for key in service(USER) if key.startswith(unwanted)] == []


@MANAGERS
def test_service_is_restarted_when_it_fails_or_hangs(folder: Path) -> None:
    options = {"Type": "notify", "NotifyAccess": "main", "Restart": "on-failure", "WatchdogSec": "30s"}
    assert options.items() <= service(folder).items()


@MANAGERS
def test_service_may_hold_more_descriptors_than_by_default(folder: Path) -> None:
    assert int(service(folder)["LimitNOFILE"]) > 1024


@MANAGERS
def test_service_keeps_names_over_a_restart(folder: Path) -> None:
    options = service(folder)
    room = int(options["FileDescriptorStoreMax"])
    assert 0 < room <= MAX_STORED
    assert options["Environment"] == f"SHMHOST_STORE={room}"
    assert "RemoveIPC" not in options  # which takes files in /dev/shm away at each restart


@MANAGERS
def test_service_starts_an_entry_point_of_the_package(folder: Path) -> None:
    program, command, *arguments = service(folder)["ExecStart"].split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"][Path(program).name] == "shmhost.__main__:main"
    parsed = cli.commands[command].make_context(command, arguments)
    assert parsed.params["socket"] == stream(folder)


@MANAGERS
def test_reload_takes_over_with_the_same_settings(folder: Path) -> None:
    options = service(folder)
    assert options["ExecReload"] == f"/bin/sh -c '{options['ExecStart']} --takeover &'"
    _, command, *arguments = options["ExecStart"].split()
    assert cli.commands[command].make_context(command, [*arguments, "--takeover"]).params["takeover"]


@MANAGERS
def test_socket_is_where_clients_look_by_themselves(folder: Path) -> None:
    environ = {} if folder == SYSTEM else {"XDG_RUNTIME_DIR": RUNTIME[USER]}
    assert stream(folder).replace("%t", RUNTIME[folder]) == socket_path(None, environ)


@MANAGERS
def test_socket_outlives_the_service(folder: Path) -> None:
    options = service(folder)
    assert stream(folder).split("/")[1] == options["RuntimeDirectory"]
    assert options["RuntimeDirectoryPreserve"] == "yes"
    assert unit(folder, "shmhost.service")["Unit"]["Requires"] == "shmhost.socket"
    assert unit(folder, "shmhost.service")["Install"]["Also"] == "shmhost.socket"


def test_user_group_and_folder_are_made_by_the_other_two_files() -> None:
    options, listens = service(SYSTEM), unit(SYSTEM, "shmhost.socket")["Socket"]
    owners = {options["User"], options["Group"], listens["SocketUser"], listens["SocketGroup"]}
    assert [*owners] == ["shmhost"]
    assert listens["SocketMode"] == "0660"
    assert rows("shmhost.sysusers.conf")[0][:2] == ["u", "shmhost"]
    folder = str(Path(stream(SYSTEM).replace("%t", "/run")).parent)
    assert rows("shmhost.tmpfiles.conf") == [["d", folder, "0755", "shmhost", "shmhost", "-"]]


def rows(name: str) -> list[list[str]]:
    lines = (SYSTEM / name).read_text("ascii").splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def test_readme_names_every_file_and_the_socket() -> None:
    text = (SYSTEM / "README.md").read_text("utf-8")
    names = {path.name for path in SYSTEM.rglob("shmhost.*")}
    assert {name for name in names if name not in text} == set()
    assert "/run/shmhost/host.sock" in text
    assert "$XDG_RUNTIME_DIR/shmhost/host.sock" in text


# --- systemd's own tools ---


def copy_units(folder: Path, target: Path) -> list[str]:
    """Copy the units with a program that exists on this machine, as `verify` wants one."""
    for name in ("shmhost.socket", "shmhost.service"):
        text = (folder / name).read_text("ascii")
        (target / name).write_text(text.replace("/usr/bin/shmhost", "/bin/true"))
    return [str(target / "shmhost.socket"), str(target / "shmhost.service")]


def run(*command: str, **environ: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environ, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@MANAGERS
def test_units_are_verified_by_systemd(folder: Path, tmp_path: Path) -> None:
    command = [tool("systemd-analyze"), "--system" if folder == SYSTEM else "--user", "verify"]
    (tmp_path / "runtime").mkdir()
    (tmp_path / "units").mkdir()
    units = copy_units(folder, tmp_path / "units")
    printed = run(*command, *units, XDG_RUNTIME_DIR=str(tmp_path / "runtime"))
    assert "shmhost" not in printed  # an unknown key is a line and no failure


def test_system_service_is_little_exposed(tmp_path: Path) -> None:
    command = [tool("systemd-analyze"), "security", "--offline=true", "--no-pager"]
    _, file = copy_units(SYSTEM, tmp_path)
    run(*command, f"--threshold={EXPOSURE_MAX}", file)


def test_system_calls_of_a_host_are_inside_the_filter() -> None:
    command = [tool("systemd-analyze"), "--no-pager", "syscall-filter"]
    calls: set[str] = set()
    groups = ["@system-service"]
    while groups:
        lines = [line.strip() for line in run(*command, groups.pop()).splitlines()[1:]]
        calls |= set(lines)
        groups += [line for line in lines if line.startswith("@")]
    assert SYSCALLS - calls == {"pidfd_getfd"}  # which the units name


def test_sysusers_file_is_read_by_systemd(tmp_path: Path) -> None:
    printed = run(
        tool("systemd-sysusers"), "--dry-run", f"--root={tmp_path}", str(SYSTEM / "shmhost.sysusers.conf")
    )
    assert "Would create" in printed or "Creating user" in printed, printed


# --- a real host under what the units impose ---

# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN) of Linux 6.3 is what MemoryDenyWriteExecute= does there.
REFUSE_WRITE_EXECUTE = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name is short enough for sockets, whatever the test is called."""
    with tempfile.TemporaryDirectory(prefix="shm-") as name:
        yield Path(name)


def put_both_backends(path: Path) -> None:
    with shmclient.connect(str(path)) as shm:
        for backend in ("memfd", "shm"):
            with shm.create(f"systemd-{backend}", 4096, backend=backend) as builder:
                builder.data[:5] = b"value"
            shm.unlink(f"systemd-{backend}")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_host_serves_without_memory_that_is_writable_and_executable(short: Path) -> None:
    path = short / "host.sock"
    command = [
        sys.executable,
        "-c",
        REFUSE_WRITE_EXECUTE,
        "-m",
        "shmhost",
        "serve",
        "--socket",
        str(path),
    ]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: process.poll() is not None or can_connect(path))
            if process.poll() == 77:
                pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
            put_both_backends(path)
            stop(process)
        finally:
            process.kill()


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_host_is_started_by_its_first_client_under_systemds_own_activator(short: Path) -> None:
    path = short / "host.sock"
    command = [tool("systemd-socket-activate"), f"--listen={path}", "--setenv=PATH", sys.executable]
    command += ["-m", "shmhost", "serve", "--socket", str(path)]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: can_connect(path))
            put_both_backends(path)
            stop(process)
        finally:
            process.kill()
    assert path.exists()
