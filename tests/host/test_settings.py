"""The same settings by flag, environment and file, and which of them counts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import rich_click as click

import shmhost.cli
from shmhost.settings import settings
from shmhost.settings.config import WINDOWS, Config

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
NAMES = [setting.name for setting in settings.SETTINGS]


def parsed(arguments: list[str], environ: dict[str, str], file: Path) -> tuple[Config, dict[str, str]]:
    """Return what `shmhost config` makes of these, and the source of each setting."""
    command = shmhost.cli.cli.commands["config"]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SHMHOST_CONFIG", *(f"SHMHOST_{name.upper()}" for name in NAMES)):
            patch.delenv(name, raising=False)
        for name, text in environ.items():
            patch.setenv(name, text)
        with command.make_context("config", ["--config", str(file), *arguments]) as context:
            return settings.to_config(context.params), settings.sources(context)


def collect(
    tmp_path: Path, flags: str = "", environ: str = "", file: str = ""
) -> tuple[Config, dict[str, str]]:
    """Parse settings, of which those named are set by flag, environment and file."""
    path = tmp_path / "shmhost.toml"
    path.write_text("".join(f'{name} = "{TEXTS[name]}"\n' for name in file.split()))
    arguments = [f"--{name.replace('_', '-')}={TEXTS[name]}" for name in flags.split()]
    return parsed(arguments, {f"SHMHOST_{name.upper()}": TEXTS[name] for name in environ.split()}, path)


def test_every_field_of_a_config_is_a_setting() -> None:
    assert {setting.field for setting in settings.SETTINGS} == {field.name for field in fields(Config)}


@pytest.mark.parametrize("name", NAMES)
def test_flag_comes_before_environment_and_file(name: str, tmp_path: Path) -> None:
    sources = [
        collect(tmp_path, flags=name, environ=name, file=name)[1][name],
        collect(tmp_path, environ=name, file=name)[1][name],
        collect(tmp_path, file=name)[1][name],
        collect(tmp_path)[1][name],
    ]
    flag, variable = f"--{name.replace('_', '-')}", f"$SHMHOST_{name.upper()}"
    assert sources == [flag, variable, str(tmp_path / "shmhost.toml"), "default"]


@pytest.mark.parametrize("where", ["flags", "environ", "file"])
def test_each_setting_means_the_same_wherever_it_is(where: str, tmp_path: Path) -> None:
    config, _ = collect(tmp_path, **{where: " ".join(NAMES)})
    assert config == Config(
        "/tmp/a.sock", 0o600, ((0x540000000000, 1 << 30),), 5 << 20, "json", "warning", "127.0.0.1:9464"
    )


def test_what_is_shown_can_be_given_again(tmp_path: Path) -> None:
    config = Config("/tmp/a.sock", 0o640, WINDOWS, 12345, "json", "warning", "/run/metrics.sock")
    (tmp_path / "empty.toml").touch()
    again = {f"SHMHOST_{name.upper()}": text for name, text in settings.shown(config).items()}
    assert parsed([], again, tmp_path / "empty.toml")[0] == config


def test_several_windows_are_a_list_or_separated_by_commas(tmp_path: Path) -> None:
    second = "0x530000000000:2G"
    (tmp_path / "list.toml").write_text(f'window = ["{WINDOW}", "{second}"]\nbudget = 1000000\n')
    (tmp_path / "text.toml").write_text(f'window = "{WINDOW},{second}"\nbudget = "1000000"\n')
    (tmp_path / "empty.toml").touch()
    environ = {"SHMHOST_WINDOW": f"{WINDOW},{second}", "SHMHOST_BUDGET": "1000000"}
    configs = [
        parsed([], {}, tmp_path / "list.toml")[0],
        parsed([], {}, tmp_path / "text.toml")[0],
        parsed([], environ, tmp_path / "empty.toml")[0],
        parsed(["--window", WINDOW, "--window", second, "--budget", "1000000"], {}, tmp_path / "empty.toml")[
            0
        ],
    ]
    assert configs == [configs[0]] * 4
    assert (len(configs[0].windows), configs[0].budget) == (2, 1_000_000)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("sokket = 'x'", "unknown setting 'sokket'"),
        ("socket_mode = 660", "socket_mode is text in quotes"),
        ("socket_mode = '9'", r"a socket mode is an octal number such as 660, not '9', from .*bad\.toml"),
        ("budget = true", "budget is text"),
        ("budget = '5X'", r"a size is .*, from .*bad\.toml"),
        ("window = ['here']", r"a window is BASE:SIZE .*, from .*bad\.toml"),
        ("window = [5]", "window is text"),
        ("[socket]\na = 1", "socket is text"),
        ("socket = ", "cannot be read"),
        ("log_format = 'xml'", "a log format is one of text, json"),
        ("socket = ''", r"a socket path .*, from .*bad\.toml"),
    ],
)
def test_bad_file_is_refused_with_its_path(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(click.UsageError) as caught:
        parsed([], {}, tmp_path / "bad.toml")
    assert re.search(reason, caught.value.format_message())


def test_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError) as caught:
        parsed([], {}, tmp_path / "no.toml")
    assert re.search(r"there is no settings file .*no\.toml", caught.value.format_message())
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(click.UsageError) as caught:
        parsed([], {}, tmp_path / "binary.toml")
    assert "cannot be read" in caught.value.format_message()


def run(*arguments: str, command: str = "config", **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SHMHOST_")}
    return subprocess.run(
        [sys.executable, "-m", "shmhost", command, *arguments],
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


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        ([], {"SHMHOST_BUDGET": "lots"}),
        (["--budget", "1Q"], {}),
        (["--config", "/nonexistent.toml"], {}),
        ([], {"SHMHOST_CONFIG": "/nonexistent.toml"}),
        (["--metrics", "/tmp/x", "--socket", "/tmp/x"], {}),
        (["--window", "0x550000000000:1G", "--window", "0x550000000000:1G"], {}),
    ],
)
@pytest.mark.parametrize("command", ["config", "serve", "doctor"])
def test_bad_setting_is_wrong_usage(command: str, arguments: list[str], environ: dict[str, str]) -> None:
    result = run(*arguments, command=command, **environ)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert "Error" in result.stderr


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
    with pytest.raises(click.UsageError) as caught:
        parsed([], {source[1:]: text}, tmp_path / "empty.toml")
    message = caught.value.format_message()
    assert f"--{name.replace('_', '-')}" in message
    assert message.endswith(f", from {source}")


@pytest.mark.parametrize(
    "content", ["budget = " + "9" * 5000, "[" * 100_000, "metrics = '/a\0b'", "a = \x80"]
)
def test_odd_file_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(content, encoding="latin-1")
    with pytest.raises(click.UsageError) as caught:
        parsed([], {}, tmp_path / "odd.toml")
    assert "\n" not in caught.value.format_message()
