"""What both commands do with their words: wrong values, several names, completion, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

import shmclient
import shmclient._commands.cli
import shmhost.cli
from command_support import call
from support import WatchedHost


def run(host: WatchedHost, package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(package, *arguments, environ={"SHMHOST_SOCKET": host.socket_path})


@pytest.mark.parametrize(
    ("package", "arguments", "reason"),
    [
        ("shmhost", ["serve", "--budget", "1Q"], "a size is a number of bytes"),
        ("shmhost", ["serve", "--metrics", "0.0.0.0:9464"], "a port of this machine"),
        ("shmhost", ["ls", "--socket", ""], "1 to 107 bytes"),
        ("shmhost", ["top", "--socket", "x" * 108], "1 to 107 bytes"),
        ("shmhost", ["top", "--once", "--interval", "nan"], "not a number of seconds"),
        ("shmhost", ["demo", "live", "--seconds", "nan"], "not a number of seconds"),
        ("shmclient", ["watch", "--socket", "x" * 108], "1 to 107 bytes"),
        ("shmclient", ["get", "x", "--wait", "nan"], "not a number of seconds"),
        ("shmclient", ["get", "x", "--wait", "-1"], "not in the range"),
        ("shmclient", ["exec", "--region", "../x", "--", "true"], "the part '..'"),
        ("shmclient", ["exec", "--arena", "../x=1M", "--", "true"], "the part '..'"),
        ("shmclient", ["exec", "--arena", "x=1Q", "--", "true"], "a size is a number of bytes"),
        ("shmclient", ["exec", "--arena", "x", "--", "true"], "not NAME=SIZE"),
    ],
)
def test_wrong_value_of_an_option_is_wrong_usage(
    host: WatchedHost, package: str, arguments: list[str], reason: str
) -> None:
    result = run(host, package, *arguments)
    words = " ".join(result.stderr.replace("│", " ").split())
    assert (result.returncode, result.stdout) == (2, "")
    assert reason in words
    assert arguments[-4 if "--" in arguments else -2] in words  # it names the option


def test_rm_removes_the_others_and_says_which_it_cannot(host: WatchedHost, shm: shmclient.Client) -> None:
    for name in ("a", "b"):
        shm.put(name, b"1").close()
    result = run(host, "shmhost", "rm", "missing", "a", "../bad", "b")
    assert shm.list() == []
    first, second = result.stderr.splitlines()
    assert "'missing'" in first
    assert "'../bad'" in second
    assert result.returncode == 4  # of the first


def test_rm_of_several_names_ends_at_once_when_there_is_no_host(tmp_path: Path) -> None:
    result = call("shmhost", "rm", "a", "b", environ={"SHMHOST_SOCKET": str(tmp_path / "none.sock")})
    assert (result.returncode, result.stderr.count("\n")) == (3, 1)


def test_watch_ends_with_0_and_without_a_word_on_ctrl_c(host: WatchedHost, shm: shmclient.Client) -> None:
    command = [sys.executable, "-m", "shmclient", "watch", "--json", "--socket", host.socket_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        line = ""
        while not line:  # the watch starts at some time: publish until it tells
            assert child.poll() is None
            shm.put("one", b"1").close()
            line = child.stdout.readline()
        os.set_blocking(child.stdout.fileno(), True)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=50)
    assert json.loads(line)["name"] == "one"
    assert (child.returncode, errors) == (0, "")


def completed(words: str) -> list[str]:
    """Return what a shell would offer for the last word, which may be empty."""
    package, *arguments, incomplete = words.split(" ")
    group = {"shmhost": shmhost.cli.cli, "shmclient": shmclient._commands.cli.cli}[package]
    return [
        item.value for item in ShellComplete(group, {}, package, "").get_completions(arguments, incomplete)
    ]


@pytest.mark.parametrize(
    "words",
    [
        "shmhost stat m",
        "shmhost rm other m",
        "shmhost ls m",
        "shmhost who m",
        "shmclient get m",
        "shmclient put m",
        "shmclient watch m",
        "shmclient exec --region m",
    ],
)
def test_shell_completes_the_names_of_regions(
    host: WatchedHost, shm: shmclient.Client, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHMHOST_SOCKET", host.socket_path)
    for name in ("models/a", "models/b", "other"):
        shm.put(name, b"1").close()
    assert completed(words) == ["models/a", "models/b"]


def test_shell_completes_names_of_the_host_that_the_line_names(
    host: WatchedHost, shm: shmclient.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHMHOST_SOCKET", str(tmp_path / "none.sock"))
    shm.put("one", b"1").close()
    assert completed(f"shmhost stat --socket {host.socket_path} ") == ["one"]
    assert completed("shmhost stat ") == []
