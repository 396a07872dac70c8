"""The command `shmclient`: store, fetch and watch regions, and start native programs that read them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import mmap
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import rich_click as click

import shmclient
from shmclient._commands import pieces, tensors
from shmclient._commands import progress as _progress
from shmclient._commands.inheritance import take_inheritance
from shmprotocol import abi
from shmprotocol.cli import manual, parse_size, run
from shmprotocol.errors import InvalidArgument, ShmError
from shmprotocol.options import Checked, Seconds, complete_names, name_type, socket_option
from shmprotocol.wire.names import check_name

wait_option = click.option(
    "--wait", type=Seconds(0), metavar="SECONDS", help="Wait this long for the name, and for a host."
)


def _octal(text: str) -> int:
    if re.fullmatch("0?[0-7]{1,3}", text):
        return int(text, 8)
    raise InvalidArgument(f"{text!r:.40} is not an octal number such as 640")


def _name_and_size(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=" if "=" in text else ":")
    if not name:
        raise InvalidArgument(f"{text!r:.80} is not NAME=SIZE, such as camera=64M")
    return check_name(name), parse_size(size)


def _print_pkg_config(context: click.Context, _: click.Parameter, is_given: bool) -> None:
    if is_given:
        print(Path(abi.__file__).resolve().parent)
        context.exit()


mode_type = Checked("octal", _octal)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=manual(
        "shmclient put config config.json",
        "shmclient get config --wait 10 | jq .",
        "shmclient exec --region words -- ./reader words",
    ),
)
@click.version_option(package_name="shmhost")
@click.option(
    "--pkg-config",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_pkg_config,
    help="Print the folder of shmhost.pc, for $PKG_CONFIG_PATH, and exit.",
)
def cli() -> None:
    """Use the memory regions of a shmhost from the shell."""


@cli.command(
    epilog=manual(
        "shmclient put config config.json",
        "shmclient put weights --mode 640 < weights.bin",
        "zcat data.gz | shmclient put data",
        "shmclient put --format safetensors llm < llm.safetensors",
    )
)
@click.argument("name", shell_complete=complete_names)
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--mode",
    type=mode_type,
    default="600",
    metavar="OCTAL",
    help="Permission bits of the region. Default: 600.",
)
@tensors.format_option
@click.option("--one", "is_one", is_flag=True, help="With safetensors: one region with all tensors, a dict.")
@socket_option
def put(name: str, file: BinaryIO, mode: int, form: str, is_one: bool, path: str | None) -> None:
    """Store FILE, or standard input, as region NAME; of a safetensors file each tensor, as NAME/TENSOR.

    An existing name gets a new generation; readers of the old one keep it. A terminal shows progress.
    """
    if is_one and form != "safetensors":
        raise click.UsageError("--one is for --format safetensors")
    with shmclient.connect(path) as client:
        if form == "safetensors":
            print(tensors.store(client, name, file, mode, is_one=is_one))
            return
        content = _content(file)
        with _progress.transferring(f"Storing {name}", len(content)) as progress:
            region = _put(client, name, content, mode, progress)
        print(f"{region.name} generation {region.generation}: {region.size} bytes")


def _put(
    client: shmclient.Client,
    name: str,
    content: bytearray | mmap.mmap,
    mode: int,
    progress: Callable[[int], None],
) -> shmclient.Region:
    try:
        return client.put(name, content, mode=mode, progress=progress)
    except OSError as error:
        if error.errno == errno.EFAULT:  # mapped, and not there any more
            raise ShmError(f"the file was truncated while it was read: {name!r} is unchanged") from None
        raise


def _content(file: BinaryIO) -> bytearray | mmap.mmap:
    """Return the content of a file: mapped if it is a regular file, so that it need not fit into memory."""
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size and file.tell() == 0:
        with contextlib.suppress(OSError):  # some cannot be mapped, such as those in /sys
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    content = bytearray()
    with _progress.transferring("Reading", None) as progress:
        while chunk := file.read(pieces.CHUNK):
            content += chunk
            progress(len(content))
    return content


@cli.command(
    epilog=manual(
        "shmclient get config --wait 10 | jq .",
        "shmclient get weights -o weights.bin",
        "shmclient get --format safetensors llm -o llm.safetensors",
    )
)
@click.argument("name", shell_complete=complete_names)
@click.option("-o", "--output", type=click.File("wb"), default="-", metavar="FILE", help="Default: stdout.")
@tensors.format_option
@tensors.metadata_option
@wait_option
@socket_option
def get(
    name: str,
    output: BinaryIO,
    form: str,
    notes: tuple[tuple[str, str], ...],
    wait: float | None,
    path: str | None,
) -> None:
    """Write the payload of region NAME to a file or to standard output.

    As safetensors it is all arrays whose names start with NAME/, or those of the dict NAME.
    """
    if form == "safetensors":
        with shmclient.connect(path, wait=wait) as client:
            tensors.fetch(client, name, output, dict(notes))
        return
    client, region = _open(path, name, wait)
    with client:
        data = region.data
        with _progress.transferring(f"Fetching {name}", len(data)) as progress:
            pieces.write(output, [data], progress)


@cli.command(
    epilog=manual(
        "shmclient save model/weights weights.shm", "shmclient save index /backup/index.shm --mode 640"
    )
)
@click.argument("name", shell_complete=complete_names)
@click.argument("file", type=click.Path())
@click.option(
    "--mode",
    type=mode_type,
    default="600",
    metavar="OCTAL",
    help="Permission bits of the file. Default: 600.",
)
@socket_option
def save(name: str, file: str, mode: int, path: str | None) -> None:
    """Save region NAME to FILE, with all that it needs to be loaded at the same address.

    FILE is replaced when all is on the disk. A terminal shows progress.
    """
    with shmclient.connect(path) as client:
        size = client.stat(name).capacity if name in client else None
        with _progress.transferring(f"Saving {name}", size) as progress:
            written = client.save(name, file, mode=mode, progress=progress)
        print(f"{name}: {written} bytes in {file}")


@cli.command(
    epilog=manual("shmclient load weights.shm", "shmclient load index.shm --name index/old --no-replace")
)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--name",
    type=name_type,
    shell_complete=complete_names,
    metavar="NAME",
    help="Its name. Default: the one that it had.",
)
@click.option("--no-replace", is_flag=True, help="Fail if the name exists.")
@click.option(
    "--anywhere", is_flag=True, help="Take another address where that is taken, if there are no pointers."
)
@socket_option
def load(file: str, name: str | None, no_replace: bool, anywhere: bool, path: str | None) -> None:
    """Load the region in FILE, which `shmclient save` wrote, at the address that it had.

    Pointers in it are valid, and the hash of the file is checked. If the address is taken, the command says
    who has it.
    """
    with shmclient.connect(path) as client:
        size, start_ns = os.stat(file).st_size, time.time_ns()
        with _progress.transferring(f"Loading {file}", size) as progress:
            region = client.load(
                file, name=name, replace=not no_replace, anywhere=anywhere, progress=progress
            )
        info = client.stat(region.name)
        end = ": it is there already, with the same content" if info.created_ns < start_ns else ""
        print(f"{info.name} generation {info.generation}: {info.size} bytes at {info.address:#x}{end}")


@cli.command(epilog=manual("shmclient watch models/", "shmclient watch --json | jq -r .name"))
@click.argument("prefix", default="", shell_complete=complete_names)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@socket_option
def watch(prefix: str, as_json: bool, path: str | None) -> None:
    """Print a line for each change of a name that starts with PREFIX, until Ctrl-C.

    The exit code is 0 after Ctrl-C, and 3 when the host stops.
    """
    with (
        contextlib.suppress(KeyboardInterrupt),
        shmclient.connect(path) as client,
        client.watch(prefix) as changes,
    ):
        for change in changes:
            info = change.info
            if as_json:
                values = dataclasses.asdict(info)
                values["region"] = values.pop("number")  # as `shmhost ls --json` calls it
                print(json.dumps({"kind": change.kind, **values}), flush=True)
            else:
                print(
                    f"{change.kind} {info.name} generation {info.generation}, {info.size} bytes", flush=True
                )


@cli.command(
    "exec",
    context_settings={"ignore_unknown_options": True},
    epilog=manual(
        "shmclient exec --region words -- ./reader words",
        "shmclient exec --region a --region b --wait 60 -- ./join a b",
        "shmclient exec --arena camera=64M -- ./producer camera",
        "shmclient exec --create table:1M -- ./array write table 3 4",
    ),
)
@click.option(
    "--region",
    "names",
    multiple=True,
    type=name_type,
    shell_complete=complete_names,
    metavar="NAME",
    help="A region or an arena to read. May be repeated.",
)
@click.option(
    "--arena",
    "arenas",
    multiple=True,
    type=Checked("name and size", _name_and_size),
    metavar="NAME=SIZE",
    help="An arena that the program writes. May be repeated.",
)
@click.option(
    "--create",
    "regions",
    multiple=True,
    type=Checked("name and size", _name_and_size),
    metavar="NAME:SIZE",
    help="A region that the program fills, published when it ends with 0. May be repeated.",
)
@click.option(
    "--mode",
    type=mode_type,
    default="600",
    metavar="OCTAL",
    help="Permission bits of what it writes. Default: 600.",
)
@click.argument("command", metavar="PROGRAM [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
@wait_option
@socket_option
def execute(
    names: tuple[str, ...],
    arenas: tuple[tuple[str, int], ...],
    regions: tuple[tuple[str, int], ...],
    mode: int,
    command: tuple[str, ...],
    wait: float | None,
    path: str | None,
) -> None:
    """Start PROGRAM with the descriptors of regions in $SHM_REGIONS, and of arenas in $SHM_ARENAS.

    The program replaces this process and keeps the connection to the host, so the leases last
    while it runs. In C, shm_region_fd("NAME") finds a descriptor and shm_region_map() maps it. Use mmap or
    pread on it, never read or lseek: other readers may share its offset. For arenas there are
    shm_arena_open_inherited() and shm_arena_own_inherited().

    With --create this process stays until the program has ended. If that is with 0, it publishes the regions,
    which shm_create_inherited() maps for writing; otherwise their names are as before.

    The exit code is the program's; 126: it cannot be started, 127: there is none.
    """
    if not names and not arenas and not regions:
        raise click.UsageError("name a --region, an --arena or one to --create for the program")
    program = shutil.which(command[0])
    if program is None:
        print(f"shmclient: no program {command[0]!r} in $PATH", file=sys.stderr)
        sys.exit(127)  # as env(1)
    inheritance = take_inheritance(path, names, arenas, mode, wait)
    inheritance.create(regions, mode)
    try:
        if regions:
            sys.exit(inheritance.fill(program, command))
        inheritance.pass_on(os.environ)
        os.execv(program, command)
    except OSError as error:
        print(f"shmclient: cannot start {program}: {error.strerror}", file=sys.stderr)
        sys.exit(126)


def _open(path: str | None, name: str, wait: float | None) -> tuple[shmclient.Client, shmclient.Region]:
    """Open a region; with a wait, for the host and for the name, say on a terminal that this waits."""
    if wait is None:
        client = shmclient.connect(path)
        return client, client.open(name, anywhere=True)
    end = time.monotonic() + wait
    with _progress.waiting(f"Waiting for {name}"):
        client = shmclient.connect(path, wait=wait)
        return client, client.open(name, wait=max(end - time.monotonic(), 0), anywhere=True)


def main() -> None:
    """Run the command; see `command_line.run` for how it ends."""
    run(cli, "shmclient")


if __name__ == "__main__":
    main()
