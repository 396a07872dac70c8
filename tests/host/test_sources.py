"""Where the text of a setting comes from: which source counts, and what a file may say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import rich_click as click

import shmhost.cli
from settings_support import NAMES, WINDOW, collect, parsed
from shmhost.settings import settings


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
    "content",
    ["budget = " + "9" * 5000, "[" * 100_000, "a = " + "[" * 100_000, "metrics = '/a\0b'", "a = \x80"],
)
def test_odd_file_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(content, encoding="latin-1")
    with pytest.raises(click.UsageError) as caught:
        parsed([], {}, tmp_path / "odd.toml")
    assert "\n" not in caught.value.format_message()


def test_number_needs_no_quotes_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "number.toml").write_text("budget = 5242880\n")
    config, sources = parsed([], {}, tmp_path / "number.toml")
    assert (config.budget, sources["budget"]) == (5 << 20, str(tmp_path / "number.toml"))


@pytest.mark.parametrize("value", ["1.5", "1e6", "2020-01-01", "[1]", "{}", "[]"])
def test_other_values_without_quotes_are_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(f"budget = {value}\n")
    with pytest.raises(click.UsageError, match="budget is text in quotes"):
        parsed([], {}, tmp_path / "bad.toml")


def test_one_setting_of_a_file_leaves_the_others_to_their_defaults(tmp_path: Path) -> None:
    _, sources = collect(tmp_path, file="budget")
    assert {name for name, source in sources.items() if source != "default"} == {"budget"}


def test_command_line_counts_though_the_file_has_a_bad_text(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("budget = 'lots'\n")
    assert parsed(["--budget", "5M"], {}, tmp_path / "bad.toml")[0].budget == 5 << 20
    with pytest.raises(click.UsageError, match="'lots'"):
        parsed([], {}, tmp_path / "bad.toml")


@pytest.mark.parametrize("kind", ["folder", "fifo of nobody", "unreadable"])
def test_file_that_is_no_file_is_refused_with_its_path(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "unreadable":
        path.symlink_to("/proc/self/mem")  # opens, and cannot be read at its start, not even by root
    else:
        path.symlink_to(path)
    with pytest.raises(click.UsageError, match=r"odd\.toml"):
        parsed([], {}, path)


def test_empty_variable_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    _, sources = parsed([], {"SHMHOST_BUDGET": ""}, tmp_path / "empty.toml")
    assert sources["budget"] == "default"


def test_file_of_the_environment_counts_like_that_of_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the options: the file is read before any setting needs its default."""
    (tmp_path / "x.toml").write_text("budget = '5M'\nsocket = '/tmp/a.sock'\n")
    monkeypatch.setenv("SHMHOST_CONFIG", str(tmp_path / "x.toml"))
    command = shmhost.cli.cli.commands["config"]
    with command.make_context("config", ["--socket", "/tmp/b.sock"]) as context:
        config, sources = settings.to_config(context.params), settings.sources(context)
    assert (config.budget, config.socket_path) == (5 << 20, "/tmp/b.sock")
    assert (sources["budget"], sources["socket"]) == (str(tmp_path / "x.toml"), "--socket")
