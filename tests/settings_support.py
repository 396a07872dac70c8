"""A text for each setting, and what `shmhost config` makes of texts in flags, environment and file."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import shmhost.cli
from shmhost.core.peers import Peer
from shmhost.core.policy import Policy, Wish
from shmhost.settings import settings
from shmhost.settings.config import Config
from shmhost.settings.policies import parse_policy

WINDOW = "0x540000000000:1G"
TEXTS = {
    "socket": "/tmp/a.sock",
    "socket_mode": "600",
    "board": "100",
    "window": WINDOW,
    "budget": "5M",
    "spares": "1M",
    "reserve": "1G",
    "store": "4096",
    "until_idle": "60",
    "policy": "/etc/shmhost/policy.toml",
    "fleet": "/etc/shmhost/fleet.toml",
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


def policy_of(text: str) -> Policy:
    """Return the policy in an indented text, of a host in which uid 0 is privileged."""
    return parse_policy(textwrap.dedent(text), "policy.toml", frozenset({0}))


def refusal(policy: Policy, peer: Peer, name: str = "models/a", **changes: object) -> str:
    """Return why a peer may not create a region, "" if it may."""
    error = policy.refusal(Wish(name, "region", "full", "memfd", 100)._replace(**changes), peer)
    return "" if error is None else str(error)
