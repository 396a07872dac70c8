"""What `shmclient put` and `get` do with safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import rich_click as click

import shmclient
from shmclient._commands import pieces
from shmclient._commands import progress as _progress
from shmclient._drivers.tensor_files import parts, put_tensors, read_descriptor, whole
from shmprotocol.errors import InvalidArgument, RegionNotFound
from shmprotocol.options import Checked


def _key_and_text(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidArgument(f"{text!r:.80} is not KEY=TEXT, such as format=pt")
    return key, value


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["bytes", "safetensors"]),
    default="bytes",
    help="What the file is. Default: bytes.",
)

metadata_option = click.option(
    "--metadata",
    "notes",
    multiple=True,
    type=Checked("key and text", _key_and_text),
    metavar="KEY=TEXT",
    help="With safetensors: a text in the file's metadata. May be repeated.",
)


def store(client: shmclient.Client, name: str, file: BinaryIO, mode: int, *, is_one: bool) -> str:
    """Put the tensors of a file, each as NAME/TENSOR or all as the dict NAME; return what was done."""
    tensors = read_descriptor(file.fileno(), file.name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    with _progress.transferring(f"Storing {name}", size) as progress:
        if is_one:
            region = whole(client, name, tensors, mode, progress)
            return f"{name} generation {region.generation}: {len(tensors)} tensors, {size} bytes"
        put_tensors(client, tensors, name, mode, progress)
    return f"{name}/: {len(tensors)} regions, {size} bytes"


def fetch(client: shmclient.Client, name: str, output: BinaryIO, metadata: Mapping[str, str]) -> None:
    """Write the arrays of the dict NAME, or all whose names start with NAME/, as a safetensors file."""
    tensors = _arrays(client, name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    with _progress.transferring(f"Fetching {name}", size) as progress:
        pieces.write(output, parts(tensors, metadata), lambda done: progress(min(done, size)))


def _arrays(client: shmclient.Client, name: str) -> dict[str, Any]:
    names = [info.name for info in client.list(f"{name}/")]
    if names:
        values = client.get_many(names, anywhere=True)
        tensors = {full.removeprefix(f"{name}/"): value for full, value in zip(names, values, strict=True)}
    else:
        value = client.get(name, anywhere=True)
        tensors = dict(value) if isinstance(value, Mapping) else {name: value}
    for key, value in tensors.items():
        if not hasattr(value, "dtype"):
            raise InvalidArgument(f"{key!r:.80} of {name!r} is not an array but a {type(value).__name__}")
    if not tensors:
        raise RegionNotFound(f"there are no tensors {name!r}")
    return tensors
