"""The two commands, run as a user runs them: real processes, a real host."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import rich_click as click

import shmclient
import shmclient._commands.cli
import shmhost
import shmhost.cli
from command_support import call
from shmprotocol.cli import EXIT_CODES
from shmprotocol.errors import AccessDenied, HostGone, RegionNotFound, ShmError, WaitTimeout, exit_code
from shmprotocol.kernel.status import describe
from support import in_child


@pytest.fixture
def socket_path() -> Iterator[str]:
    with shmhost.embedded() as host:
        yield host.socket_path


def run(
    package: str, *arguments: str | Path, socket: str, **options: object
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SHMHOST_SOCKET": socket, "COLUMNS": "80", "TERM": "dumb"}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", f"{package}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        **options,
    )


def test_put_stores_standard_input_and_get_gives_it_back(socket_path: str) -> None:
    stored = run("shmclient", "put", "greeting", socket=socket_path, input="hello")
    fetched = run("shmclient", "get", "greeting", socket=socket_path)
    assert stored.returncode == 0
    assert (fetched.returncode, fetched.stdout) == (0, "hello")


def test_put_and_get_use_files_when_they_are_named(socket_path: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(range(256)))
    run("shmclient", "put", "bytes", tmp_path / "in", socket=socket_path)
    run("shmclient", "get", "bytes", "-o", tmp_path / "out", socket=socket_path)
    assert (tmp_path / "out").read_bytes() == bytes(range(256))


def test_ls_prints_each_region_in_80_columns(socket_path: str) -> None:
    with shmclient.connect(socket_path) as shm:
        for name in ("a/one", "a/two", "b/" + "x" * 100):
            shm.put(name, b"1").close()
    result = run("shmhost", "ls", socket=socket_path)
    assert result.returncode == 0
    assert "a/one" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_ls_prints_json_with_only_the_prefix(socket_path: str) -> None:
    with shmclient.connect(socket_path) as shm:
        for name in ("a/one", "b/two"):
            shm.put(name, b"12345").close()
    regions = json.loads(run("shmhost", "ls", "a/", "--json", socket=socket_path).stdout)
    assert [(region["name"], region["generation"]) for region in regions] == [("a/one", 1)]


def test_stat_prints_all_that_the_client_library_tells(socket_path: str) -> None:
    with shmclient.connect(socket_path) as shm:
        shm.put("one", b"12345").close()
        shown = json.loads(run("shmhost", "stat", "one", "--json", socket=socket_path).stdout)
        info = dataclasses.asdict(shm.stat("one"))
    assert info.items() <= {"number": shown.pop("region"), **shown}.items()
    assert shown.keys() - info.keys() == {
        "kind",
        "arena",
        "metadata",
    }  # which the handles of the library tell


def test_stat_fd_prints_an_inherited_descriptor_when_no_host_runs(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.truncate(12345)
        fd = file.fileno()
        result = run("shmhost", "stat", "--fd", str(fd), socket=str(tmp_path / "none.sock"), pass_fds=[fd])
        assert (result.returncode, result.stdout) == (0, f"{describe(fd)}\n")
    assert "12345 bytes" in result.stdout


def test_stat_fd_prints_json(tmp_path: Path) -> None:
    fd = os.memfd_create("cli", os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        arguments = ["stat", "--json", "--fd", str(fd)]
        result = run("shmhost", *arguments, socket=str(tmp_path / "none.sock"), pass_fds=[fd])
        assert json.loads(result.stdout) == describe(fd).as_dict()
    finally:
        os.close(fd)
    assert json.loads(result.stdout)["seals"] == ["SHRINK"]


@pytest.mark.parametrize("number", ["77", "-1", str(2**40)])
def test_stat_fd_ends_with_one_line_when_the_descriptor_is_not_open(number: str, tmp_path: Path) -> None:
    result = run("shmhost", "stat", "--fd", number, socket=str(tmp_path / "none.sock"))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert f"descriptor {number} is not open" in result.stderr


def test_rm_unlinks(socket_path: str) -> None:
    with shmclient.connect(socket_path) as shm:
        shm.put("one", b"1").close()
        assert run("shmhost", "rm", "one", socket=socket_path).returncode == 0
        assert shm.list() == []


def test_rm_ends_a_creation_that_is_not_published(socket_path: str) -> None:
    with shmclient.connect(socket_path) as creator, shmclient.connect(socket_path) as other:
        with pytest.raises(shmclient.RegionNotFound, match="shmhost rm"), creator.create("one", 100):
            with pytest.raises(shmclient.RegionBusy, match="shmhost rm"):
                other.put("one", b"other")
            assert run("shmhost", "rm", "one", socket=socket_path).returncode == 0
            other.put("one", b"other").close()
        assert bytes(creator.get("one")) == b"other"


@pytest.mark.parametrize(
    ("package", "arguments", "code"),
    [
        ("shmhost", ["stat", "missing"], 4),
        ("shmhost", ["rm", "missing"], 4),
        ("shmhost", ["stat", "../bad"], 1),
        ("shmhost", ["stat"], 2),
        ("shmhost", ["stat", "missing", "--fd", "0"], 2),
        ("shmhost", ["stat", "--fd", "zero"], 2),
        ("shmclient", ["get", "missing"], 4),
        ("shmclient", ["get", "missing", "--wait", "0.05"], 6),
        ("shmclient", ["put", "x", "/nonexistent"], 2),
        ("shmclient", ["put", "x", "--mode", "999"], 2),
        ("shmclient", ["exec", "--region", "missing", "--", "true"], 4),
        ("shmclient", ["exec", "--region", "missing", "--", "no-such-program"], 127),
    ],
)
def test_command_ends_with_the_code_of_its_error(
    socket_path: str, package: str, arguments: list[str], code: int
) -> None:
    result = run(package, *arguments, socket=socket_path, input="")
    assert result.returncode == code
    assert result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("package", "command"), [("shmhost", "ls"), ("shmclient", "watch")])
def test_command_names_the_socket_and_the_cure_when_no_host_runs(
    package: str, command: str, tmp_path: Path
) -> None:
    missing = str(tmp_path / "none.sock")
    result = run(package, command, socket=missing)
    assert result.returncode == 3
    assert missing in result.stderr
    assert "shmhost serve" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "lots"],
        ["--window", "here"],
        ["--window", "0x550000000001:1G"],
        ["--socket-mode", "rw"],
        ["--socket", "x" * 200],
    ],
)
def test_serve_refuses_bad_settings(arguments: list[str], tmp_path: Path) -> None:
    result = run("shmhost", "serve", *arguments, socket=str(tmp_path / "h.sock"))
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "h.sock").exists()


def test_exec_starts_a_program_that_holds_descriptor_and_lease(socket_path: str) -> None:
    program = "import os, sys; print(os.environ['SHM_REGIONS'], end='', flush=True); sys.stdin.read()"
    with shmclient.connect(socket_path) as shm:
        shm.put("one", b"1").close()
        command = [sys.executable, "-m", "shmclient", "exec", "--socket", socket_path]
        child = subprocess.Popen(
            [*command, "--region", "one", "--", sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        descriptor, name = child.stdout.readline().split()
        target = os.readlink(f"/proc/{child.pid}/fd/{descriptor}")
        leases = shm.stat("one").leases
        child.communicate("")
    assert (name, leases, child.returncode) == ("one", 1, 0)
    assert target.startswith("/memfd:shmhost:one")


def test_watch_prints_a_line_for_each_change(socket_path: str) -> None:
    command = [sys.executable, "-m", "shmclient", "watch", "w/", "--json", "--socket", socket_path]
    with (
        shmclient.connect(socket_path) as shm,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child,
    ):
        assert child.stdout is not None
        try:
            os.set_blocking(child.stdout.fileno(), False)
            line = ""
            while not line:  # the watch starts at some time: publish until it tells
                shm.put("w/one", b"1").close()
                line = child.stdout.readline()
        finally:
            child.terminate()
    change = json.loads(line)
    assert (change["kind"], change["name"]) == ("published", "w/one")
    assert change["region"] > 0


@pytest.mark.parametrize(
    ("command", "started", "completed"), [("shmhost", "m", "map"), ("shmclient", "wa", "watch")]
)
def test_shell_completes_the_commands(command: str, started: str, completed: str) -> None:
    script = Path(sys.executable).parent / command
    if not script.exists():
        pytest.skip(f"{command} is not installed beside this Python")
    asked = {f"_{command.upper()}_COMPLETE": "bash_complete", "COMP_WORDS": f"{command} {started}"}
    output = subprocess.check_output([script], env=os.environ | asked | {"COMP_CWORD": "1"}, text=True)
    assert output.split() == [f"plain,{completed}"]


@pytest.mark.parametrize("arguments", [["map", "--svg", "/nonexistent/x.svg"], ["ls"]])
def test_output_that_cannot_be_written_is_one_line(socket_path: str, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full, shmclient.connect(socket_path) as shm:
        shm.put("x", b"1").close()
        command = [sys.executable, "-m", "shmhost", *arguments, "--socket", socket_path]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert result.returncode in (1, 2, 120)
    assert "Traceback" not in result.stderr
    assert "No such file" in result.stderr or "No space left" in result.stderr


def test_put_takes_files_that_cannot_be_mapped(socket_path: str) -> None:
    result = run("shmclient", "put", "version", "/proc/version", socket=socket_path)
    assert result.returncode == 0
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if mode.exists():
        assert run("shmclient", "put", "mode", str(mode), socket=socket_path).returncode == 0
        with shmclient.connect(socket_path) as shm:
            assert bytes(shm.get("mode")) == mode.read_bytes()


def test_put_says_when_its_file_became_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        shm.put("x", b"before").close()
        with path.open("rb") as file:
            content = shmclient._commands.cli._content(file)
        os.truncate(path, 10)
        with pytest.raises(ShmError, match="truncated while it was read"):
            shmclient._commands.cli._put(shm, "x", content, 0o600, lambda _: None)
        assert bytes(shm.get("x")) == b"before"


@pytest.mark.parametrize("mode", ["9x", "1000", "-1", "0o600", "", "00600"])
def test_put_refuses_a_bad_mode_before_it_reads(mode: str, socket_path: str) -> None:
    """Standard input stays open, so that a command that reads it would not end."""
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin:
        result = run("shmclient", "put", "x", f"--mode={mode}", socket=socket_path, stdin=stdin)
    os.close(writing)
    assert result.returncode == 2
    assert f"{mode!r} is not an octal number such as 640" in result.stderr


# --- help


def commands() -> list[tuple[str, click.Command, str]]:
    groups = {"shmhost": shmhost.cli.cli, "shmclient": shmclient._commands.cli.cli}
    rows = [(name, group, name) for name, group in groups.items()]
    return rows + [
        (f"{name} {sub}", command, name) for name, group, _ in rows for sub, command in group.commands.items()
    ]


def examples() -> list[tuple[str, str]]:
    """Return each example of a help text, up to where the shell has its say."""
    lines = [(name, line) for name, command, _ in commands() for line in (command.epilog or "").splitlines()]
    return [(name, line[2:]) for name, line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("name", [name for name, _, _ in commands()])
def test_help_has_examples_and_exit_codes(name: str) -> None:
    result = call(*name.split(), "--help", environ={})
    text = result.stdout
    assert (result.returncode, result.stderr) == (0, "")
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) in words
    shown = [example for owner, example in examples() if owner == name]
    assert shown
    assert all(f" $ {example} " in text for example in shown)


@pytest.mark.parametrize(("name", "example"), examples())
def test_example_of_a_help_is_what_the_command_takes(name: str, example: str) -> None:
    assert f"{name} " in f"{example} " or name in ("shmhost", "shmclient")
    part = next(part for part in example.split("|") if "shmhost" in part or "shmclient" in part)
    words = [
        word for word in shlex.split(part.split("<")[0]) if word != "&" and not re.match("[A-Z_]+=", word)
    ]
    group = {"shmhost": shmhost.cli.cli, "shmclient": shmclient._commands.cli.cli}[words[0]]
    arguments = ["-" if word == "config.json" else word for word in words[2:]]  # which must exist
    with group.commands[words[1]].make_context(words[1], arguments):
        pass


def test_exit_codes_are_those_of_the_errors() -> None:
    codes = {exit_code(kind("x")) for kind in (ShmError, HostGone, RegionNotFound, AccessDenied, WaitTimeout)}
    assert codes | {0, 2} == set(EXIT_CODES)
    page = " ".join((Path(__file__).parents[2] / "docs" / "operating.md").read_text().split())
    assert ", ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) in page


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("arguments", [["shmclient", "put", "x", "/etc/hostname"], ["shmhost", "rm", "x"]])
def test_denied_access_ends_with_5(
    socket_path: str, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    os.chmod(socket_path, 0o666)
    for folder in Path(socket_path).parents[:4]:
        os.chmod(folder, folder.stat().st_mode | 0o755)
    with shmclient.connect(socket_path) as shm:
        shm.put("x", b"1", mode=0o644).close()

    def other() -> None:
        os.setgroups([])
        os.setresgid(5001, 5001, 5001)
        os.setresuid(5001, 5001, 5001)
        sys.argv = [*arguments, "--socket", socket_path]
        with pytest.raises(SystemExit) as end:
            {"shmclient": shmclient._commands.cli, "shmhost": shmhost.cli}[arguments[0]].main()
        assert end.value.code == 5

    assert in_child(other) == 0
    assert "uid 5001 may not" in capfd.readouterr().err
