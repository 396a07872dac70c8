"""The same settings by flag, environment and file, and which of them counts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shmhost import settings
from shmhost.config import WINDOWS, Config
from shmprotocol.errors import InvalidArgument

WINDOW = "0x540000000000:1G"
TEXTS = {
    "socket": "/tmp/a.sock",
    "socket_mode": "600",
    "window": WINDOW,
    "budget": "5M",
    "log_format": "json",
    "log_level": "warning",
    "metrics": "127.0.0.1:9464",
}


def collect(
    tmp_path: Path, flags: str = "", environ: str = "", file: str = ""
) -> dict[str, settings.Setting]:
    """Collect settings, of which those named are set by flag, environment and file."""
    path = tmp_path / "shmhost.toml"
    path.write_text("".join(f'{name} = "{TEXTS[name]}"\n' for name in file.split()))
    return settings.collect(
        {name: (TEXTS[name],) for name in flags.split()},
        {f"SHMHOST_{name.upper()}": TEXTS[name] for name in environ.split()},
        path,
    )


@pytest.mark.parametrize("name", settings.NAMES)
def test_flag_comes_before_environment_and_file(name: str, tmp_path: Path) -> None:
    sources = [
        collect(tmp_path, flags=name, environ=name, file=name)[name].source,
        collect(tmp_path, environ=name, file=name)[name].source,
        collect(tmp_path, file=name)[name].source,
        collect(tmp_path)[name].source,
    ]
    flag, variable = f"--{name.replace('_', '-')}", f"$SHMHOST_{name.upper()}"
    assert sources == [flag, variable, str(tmp_path / "shmhost.toml"), "default"]


@pytest.mark.parametrize("where", ["flags", "environ", "file"])
def test_each_setting_means_the_same_wherever_it_is(where: str, tmp_path: Path) -> None:
    found = collect(tmp_path, **{where: " ".join(settings.NAMES)})
    expected = Config(
        "/tmp/a.sock", 0o600, ((0x540000000000, 1 << 30),), 5 << 20, "json", "warning", "127.0.0.1:9464"
    )
    assert settings.to_config(found) == expected


def test_what_is_shown_can_be_given_again(tmp_path: Path) -> None:
    config = Config("/tmp/a.sock", 0o640, WINDOWS, 12345, "json", "warning", "/run/metrics.sock")
    again = {name: (text,) for name, text in settings.shown(config).items()}
    again["window"] = tuple(again["window"][0].split(","))
    (tmp_path / "empty.toml").touch()
    assert settings.to_config(settings.collect(again, {}, tmp_path / "empty.toml")) == config


def test_several_windows_are_a_list_or_separated_by_commas(tmp_path: Path) -> None:
    second = "0x530000000000:2G"
    (tmp_path / "x.toml").write_text(f'window = ["{WINDOW}", "{second}"]\nbudget = 1000000\n')
    by_file = settings.to_config(settings.collect({}, {}, tmp_path / "x.toml"))
    by_environment = settings.to_config(
        settings.collect({}, {"SHMHOST_WINDOW": f"{WINDOW},{second}"}, tmp_path / "x.toml")
    )
    assert by_file == by_environment
    assert (len(by_file.windows), by_file.budget) == (2, 1_000_000)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("sokket = 'x'", "unknown setting 'sokket'"),
        ("socket_mode = 660", "socket_mode is text in quotes"),
        ("socket_mode = '9'", "socket_mode, from .*: a socket mode is an octal number"),
        ("budget = true", "budget is text"),
        ("budget = '5X'", "budget, from .*: a size is"),
        ("window = ['here']", "window, from .*: a window is BASE:SIZE"),
        ("window = [5]", "window is text"),
        ("[socket]\na = 1", "socket is text"),
        ("socket = ", "cannot be read"),
        ("log_format = 'xml'", "a log format is one of text, json"),
        ("socket = ''", "socket, from .*: a socket path"),
    ],
)
def test_bad_file_is_refused_with_name_and_place(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(InvalidArgument, match=reason):
        settings.to_config(settings.collect({}, {"SHMHOST_CONFIG": str(tmp_path / "bad.toml")}, None))


def test_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    for environ, file in (({"SHMHOST_CONFIG": str(tmp_path / "no.toml")}, None), ({}, tmp_path / "no.toml")):
        with pytest.raises(InvalidArgument, match=r"there is no settings file .*no\.toml"):
            settings.collect({}, environ, file)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        settings.collect({}, {}, tmp_path / "binary.toml")


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmhost", "config", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SHMHOST_")}
    return subprocess.run(
        command,
        env=clean | {"COLUMNS": "80"} | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_config_command_shows_value_and_source(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("socket_mode = '600'\n")
    result = run("--budget", "4G", "--config", str(tmp_path / "x.toml"), "--json", SHMHOST_WINDOW=WINDOW)
    shown = json.loads(result.stdout)
    assert shown["budget"] == {"value": str(4 << 30), "source": "--budget"}
    assert shown["socket_mode"] == {"value": "600", "source": str(tmp_path / "x.toml")}
    assert shown["window"] == {"value": "0x540000000000:1073741824", "source": "$SHMHOST_WINDOW"}
    assert shown["socket"]["source"] == "default"
    assert max(map(len, run().stdout.splitlines())) <= 80


def test_config_command_ends_with_1_and_a_line_when_a_setting_is_bad() -> None:
    result = run(SHMHOST_BUDGET="lots")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "budget, from $SHMHOST_BUDGET" in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        ("budget", "9" * 5000, "$SHMHOST_BUDGET"),
        ("budget", "9" * 19 + "T", "$SHMHOST_BUDGET"),
        ("budget", "0", "$SHMHOST_BUDGET"),
        ("log_level", "loud", "$SHMHOST_LOG_LEVEL"),
        ("log_format", "xml", "$SHMHOST_LOG_FORMAT"),
        ("socket_mode", "1777", "$SHMHOST_SOCKET_MODE"),
        ("window", "0x1:1G", "$SHMHOST_WINDOW"),
        ("metrics", "/" + "x" * 200, "$SHMHOST_METRICS"),
    ],
)
def test_bad_value_is_told_with_its_setting_and_its_source(
    name: str, text: str, source: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.toml").touch()
    found = settings.collect({}, {source[1:]: text}, tmp_path / "empty.toml")
    with pytest.raises(InvalidArgument, match=f"^{name}, from {re.escape(source)}: "):
        settings.to_config(found)


@pytest.mark.parametrize(
    "content", ["budget = " + "9" * 5000, "[" * 100_000, "metrics = '/a\0b'", "a = \x80"]
)
def test_odd_file_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(content, encoding="latin-1")
    with pytest.raises(InvalidArgument) as caught:
        settings.to_config(settings.collect({}, {}, tmp_path / "odd.toml"))
    assert "\n" not in str(caught.value)
