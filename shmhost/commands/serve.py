"""The commands that are about the host itself: serve, config, doctor, demo."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from typing import Any, NoReturn

import anyio
import rich_click as click
from click import get_current_context
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shmhost.commands.doctor.judge import Finding
from shmhost.commands.doctor.kinds import try_kinds
from shmhost.commands.doctor.languages import KINDS
from shmhost.commands.doctor.measure import examine
from shmhost.commands.doctor.table import as_json as doctor_json
from shmhost.commands.doctor.table import doctor_table, is_healthy
from shmhost.commands.options import json_option, print_json
from shmhost.fleet.config import read_fleet
from shmhost.machine import logs
from shmhost.serving.given import Given, take_given
from shmhost.serving.notify import Notifier, store_room
from shmhost.serving.policing import apply_policy_again
from shmhost.serving.server import Host, backend_options
from shmhost.serving.store import Store
from shmhost.settings import settings
from shmhost.settings.config import Config
from shmhost.settings.policies import privileged_uids, read_policy
from shmhost.settings.settings import setting_options, to_config
from shmprotocol.cli import manual
from shmprotocol.options import Seconds


@click.command(
    epilog=manual(
        "shmhost serve",
        "shmhost serve --socket /tmp/shm.sock --budget 4G",
        "shmhost serve --takeover",
        "shmhost serve --metrics 127.0.0.1:9464 --log-format json",
    )
)
@click.option(
    "--takeover",
    is_flag=True,
    help="Take the place of the host that runs at this socket, connections and all, with no failed request.",
)
@setting_options
def serve(takeover: bool, **options: Any) -> None:
    """Run a host until SIGTERM or Ctrl-C. SIGHUP has it read its policy again.

    Each option can also be set as $SHMHOST_NAME, or in a TOML file; see `shmhost config`.
    """
    config = to_config(options)
    os.umask(0)  # each file is created with an explicit mode, a socket too
    logs.configure(config.log_format, config.log_level)
    # Before the loop opens descriptors: one of its own could pass for the inherited one.
    _raise_open_files()
    given = take_given(os.environ, os.getpid())
    _shorten_pauses()
    anyio.run(_serve, config, given, takeover, backend_options=backend_options())


def _raise_open_files() -> None:
    """Raise the soft limit to the hard one, as this process uses no select(2); regions take descriptors.

    An embedded host leaves the limit to its program.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # over fs.nr_open, which was lowered since
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _shorten_pauses() -> None:
    """Let neither the garbage collector nor another thread keep the loop from the next request for long.

    † A full collection takes 30 ms with 10,000 regions and 20,000 leases; links and regions are freed without
    it, so it hardly ever runs. A thread that computes, as for a scrape, keeps the interpreter as long as the
    interval is. An embedded host leaves both to its program.
    """
    gc.collect()
    gc.freeze()  # what is loaded by now stays
    # The youngest 100 or 200 objects at a time, in 10 to 20 us († 1,200 take 105, 2026-11), and all after 10
    # million.
    gc.set_threshold(100, 1, 50_000)
    sys.setswitchinterval(0.0001)  # seconds; 5 ms by default


async def _serve(config: Config, given: Given, takes_over: bool) -> None:
    notifier = Notifier(os.environ, os.getpid())
    store = Store(notifier, store_room(os.environ, config.store), given.entries)
    host = Host(config, given.listener, notifier, _leave, store=store, takes_over=takes_over)
    for end in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(end, host.stop)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, apply_policy_again, config, host.registry.accounts
    )
    await host.serve()


def _leave() -> NoReturn:
    """End this process and touch nothing: what it has is another host's.

    A thread that the kernel does not give back (see `workers`) would keep all descriptors open, also those of
    the lock and of clients, as long as that lasts.
    """
    logging.shutdown()
    os.closerange(3, 2**31 - 1)
    os._exit(0)


@click.command(
    "config",
    epilog=manual(
        "shmhost config --budget 4G",
        "SHMHOST_LOG_FORMAT=json shmhost config --json",
        "shmhost config --check --policy /etc/shmhost/policy.toml",
    ),
)
@setting_options
@json_option
@click.option("--check", is_flag=True, help="Only look for mistakes, in the policy and the fleet's file too.")
def config_command(as_json: bool, check: bool, **options: Any) -> None:
    """Show the settings that `serve` would use, and the source of each.

    A flag comes before $SHMHOST_SOCKET, $SHMHOST_SOCKET_MODE, $SHMHOST_WINDOW, $SHMHOST_BUDGET,
    $SHMHOST_LOG_FORMAT, $SHMHOST_LOG_LEVEL and $SHMHOST_METRICS, and these before the TOML file, which has
    the same names.
    """
    config = to_config(options)
    if check:
        _check(config)
        return
    values = settings.shown(config)
    sources = settings.sources(get_current_context())
    if as_json:
        print_json({name: {"value": value, "source": sources[name]} for name, value in values.items()})
        return
    table = Table("setting", "value", "from", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in values.items():
        table.add_row(name, Text(value.replace(",", "\n")), Text(sources[name]))
    Console().print(table)


def _check(config: Config) -> None:
    """Say what the policy has, or raise InvalidArgument with all its mistakes."""
    if config.fleet:
        plan = read_fleet(config.fleet, config.windows)
        print(f"no mistakes in the fleet's file: {plan.fleet}, {plan.slices} slices, as {plan.name}")
    if not config.policy:
        print("no mistakes: there is no policy")
        return
    policy = read_policy(config.policy, privileged_uids())
    print(f"no mistakes; rules for names: {len(policy.names)}, for limits: {len(policy.limits)}")


@click.command(
    epilog=manual(
        "shmhost doctor",
        "shmhost doctor --socket /run/shmhost/host.sock --budget 16G --json",
        "shmhost doctor --processes",
    )
)
@setting_options
@json_option
@click.option(
    "--processes",
    is_flag=True,
    help="Only try the windows, in all kinds of processes that can be started here: C, Go, Java, ...",
)
def doctor(as_json: bool, processes: bool, **options: Any) -> None:
    """Check whether this machine, process and socket can serve a host, and say how to fix each problem.

    Pass the settings of the host in question, and run it as the affected user, in the affected container.
    The exit code is 1 if there is a problem; notes do not count.
    """
    config = to_config(options)
    findings = _tried(config) if processes else examine(config)
    if as_json:
        print_json(doctor_json(findings))
    else:
        Console().print(doctor_table(findings))
    sys.exit(0 if is_healthy(findings) else 1)


def _tried(config: Config) -> list[Finding]:
    findings: list[Finding] = []
    with Console(stderr=True).status("") as status:
        for finding in try_kinds(config.windows):
            findings.append(finding)
            status.update(f"{len(findings)} of {len(KINDS)} kinds of processes: {finding.topic}")
    return findings


@click.command(epilog=manual("shmhost demo", "shmhost demo memoryview", "shmhost demo live"))
@click.argument("word", required=False)
@click.option(
    "--seconds",
    metavar="SECONDS",
    type=Seconds(0, 3600),
    default=10.0,
    show_default=True,
    help="How long `live` goes on.",
)
def demo(word: str | None, seconds: float) -> None:
    """Index Python's standard library in a region and read it from Python and C, by the same pointers.

    With WORD: print where it occurs; the exit code is 1 if it does not occur.

    With the word `live`: rewrite frames in an arena as fast as possible while readers check each of theirs.
    """
    if word == "live":
        try:
            from shmhost.commands.demo.live import live
        except ModuleNotFoundError as error:
            raise click.ClickException(f"{error}: pip install 'shmhost[numpy]'") from None
        sys.exit(live(seconds, Console()))
    from shmhost.commands.demo.run import demo as run_demo

    sys.exit(run_demo(word, Console()))


COMMANDS = (serve, config_command, doctor, demo)
