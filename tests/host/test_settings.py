"""The settings of the host: each by flag, environment and file, and as commands show them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from command_support import call
from settings_support import NAMES, WINDOW, collect, parsed
from shmhost.settings import settings
from shmhost.settings.config import WINDOWS, Config


def test_every_field_of_a_config_is_a_setting() -> None:
    assert {setting.field for setting in settings.SETTINGS} == {field.name for field in fields(Config)}


@pytest.mark.parametrize("where", ["flags", "environ", "file"])
def test_each_setting_means_the_same_wherever_it_is(where: str, tmp_path: Path) -> None:
    config, _ = collect(tmp_path, **{where: " ".join(NAMES)})
    assert config == Config(
        *("/tmp/a.sock", 0o600, ((0x540000000000, 1 << 30),), 5 << 20, "json", "warning", "127.0.0.1:9464"),
        board=100,
        spares=1 << 20,
        reserve=1 << 30,
        store=4096,
        until_idle=60,
        policy="/etc/shmhost/policy.toml",
        fleet="/etc/shmhost/fleet.toml",
    )


def test_what_is_shown_can_be_given_again(tmp_path: Path) -> None:
    config = Config("/tmp/a.sock", 0o640, WINDOWS, 12345, "json", "warning", "/run/metrics.sock", 5, 0, 7)
    (tmp_path / "empty.toml").touch()
    again = {f"SHMHOST_{name.upper()}": text for name, text in settings.shown(config).items()}
    assert parsed([], again, tmp_path / "empty.toml")[0] == config


def test_config_command_shows_value_and_source(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("socket_mode = '600'\n")
    result = call(
        "shmhost",
        "config",
        "--budget",
        "4G",
        "--config",
        str(tmp_path / "x.toml"),
        "--json",
        environ={"SHMHOST_WINDOW": WINDOW},
    )
    shown = json.loads(result.stdout)
    assert shown["budget"] == {"value": str(4 << 30), "source": "--budget"}
    assert shown["socket_mode"] == {"value": "600", "source": str(tmp_path / "x.toml")}
    assert shown["window"] == {"value": "0x540000000000:1073741824", "source": "$SHMHOST_WINDOW"}
    assert shown["socket"]["source"] == "default"
    assert max(map(len, call("shmhost", "config", environ={}).stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        ([], {"SHMHOST_BUDGET": "lots"}),
        (["--budget", "1Q"], {}),
        (["--spares", "1Q"], {}),
        ([], {"SHMHOST_RESERVE": str(2**63)}),
        (["--config", "/nonexistent.toml"], {}),
        ([], {"SHMHOST_CONFIG": "/nonexistent.toml"}),
        (["--metrics", "/tmp/x", "--socket", "/tmp/x"], {}),
        (["--window", "0x550000000000:1G", "--window", "0x550000000000:1G"], {}),
    ],
)
@pytest.mark.parametrize("command", ["config", "serve", "doctor"])
def test_bad_setting_is_wrong_usage(command: str, arguments: list[str], environ: dict[str, str]) -> None:
    result = call("shmhost", command, *arguments, environ=environ)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert "Error" in result.stderr
