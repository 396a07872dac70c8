"""The settings of the host: each by flag, environment and file, and as commands show them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from settings_support import NAMES, WINDOW, collect, parsed
from shmhost.settings import settings
from shmhost.settings.config import WINDOWS, Config


def test_every_field_of_a_config_is_a_setting() -> None:
    assert {setting.field for setting in settings.SETTINGS} == {field.name for field in fields(Config)}


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
