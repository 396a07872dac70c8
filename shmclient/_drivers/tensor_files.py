"""Safetensors files: mapped, checked and given as arrays, which `put` writes into regions as they lie.

Nothing is decoded. A file that shrinks while it is read is an error of the system call that writes a region.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from shmclient._codecs import safetensors as format_
from shmclient._codecs.dlpack import array_of, can_encode
from shmclient._codecs.dtypes import parse
from shmclient._drivers.operations import DEFAULT_MODE
from shmclient._process.replacing import replacing
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire.names import check_name

if TYPE_CHECKING:
    from shmclient._drivers.handles import Region
    from shmclient._drivers.transfer import Progress

READ_MAX = 12 * 1024  # bytes of a tensor: `put` gathers such, and to touch a mapping of a cut file is SIGBUS


class Puts(Protocol):
    """A sync client, as far as it is used here."""

    def put(self, name: str, obj: object, /, *, mode: int = ..., progress: Progress | None = ...) -> Region:
        """Store a value."""


class SafeTensors(dict[str, Any]):
    """The tensors of a file by their names, as read-only arrays; `metadata` is what the file says of them."""

    metadata: dict[str, str]


def read_safetensors(path: str | os.PathLike[str]) -> SafeTensors:
    """Map a safetensors file, and return its tensors as arrays, without a copy of those over 12 KiB.

    `put` takes the whole as one region, or each: its bytes then go from the file's pages into the region.
    The file must not change meanwhile. It is untrusted: InvalidArgument, with the values, if lengths,
    offsets, shapes or dtypes do not hold, tensors overlap, or a name is there twice. ImportError: NumPy or
    ml_dtypes is missing.
    """
    with open(path, "rb") as file:
        return _read(file.fileno(), os.fsdecode(path))


def read_descriptor(descriptor: int, path: str) -> SafeTensors:
    """Return the tensors of an open file, which stays the caller's; `path` is what errors call it."""
    return _read(descriptor, path)


def put_safetensors(
    client: Puts,
    path: str | os.PathLike[str],
    prefix: str,
    *,
    mode: int = DEFAULT_MODE,
    progress: Progress | None = None,
) -> list[str]:
    """Put each tensor of a safetensors file as a region of its own, `prefix/name`; return their names.

    All names are checked before the first is put. `progress` is called with the bytes of all that are
    written. Errors as for `read_safetensors` and `Client.put`.
    """
    return put_tensors(client, read_safetensors(path), prefix, mode, progress)


def put_tensors(
    client: Puts, tensors: Mapping[str, Any], prefix: str, mode: int, progress: Progress | None
) -> list[str]:
    """Put each of some arrays as `prefix/name`, as `put_safetensors` does."""
    names = {check_name(f"{prefix}/{name}"): tensor for name, tensor in tensors.items()}
    done = 0
    for name, tensor in names.items():
        tell = None if progress is None else _behind(progress, done, tensor.nbytes)
        whole(client, name, tensor, mode, tell).close()
        done += tensor.nbytes
    return list(names)


def whole(client: Puts, name: str, value: Any, mode: int, progress: Progress | None) -> Region:
    """Put what is mapped from a file; InvalidArgument if that has shrunk meanwhile."""
    try:
        return client.put(name, value, mode=mode, progress=progress)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        raise InvalidArgument(f"the file was cut while it was read: {name!r} is unchanged") from None


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays, or tensors that `put` takes, as a safetensors file, in place of the one at `path`.

    It has its name once all is on the disk. InvalidArgument: the format has no such dtype, or a link or a
    folder is there. TypeError: a tensor on another device, or one that requires grad.
    """
    with replacing(os.fsdecode(path)) as descriptor, open(descriptor, "wb", closefd=False) as file:
        for part in parts(tensors, metadata or {}):
            file.write(part)


def parts(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield the content of a safetensors file with some arrays: the header, then each of them."""
    import numpy as np

    arrays = {
        name: array_of(tensor)
        if can_encode(tensor) and type(tensor) is not np.ndarray
        else np.asarray(tensor)
        for name, tensor in tensors.items()
    }
    # Larger items first, so that all are aligned.
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    described = {name: (_name_of(array), array.shape, array.nbytes) for name, array in arrays.items()}
    yield format_.make_header(described, metadata)
    for array in arrays.values():
        if array.nbytes:
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _name_of(array: Any) -> str:
    is_small = array.dtype.type.__module__.partition(".")[0] == "ml_dtypes"
    return str(array.dtype.name if is_small else array.dtype.str)


def _behind(progress: Progress, done: int, size: int) -> Progress:
    """Return the progress of one of several tensors: without the metadata, which is written behind it."""
    return lambda written: progress(done + min(written, size))


def _read(descriptor: int, path: str) -> SafeTensors:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArgument(f"{path} is not a regular file: its tensors cannot be mapped")
    try:
        start, header = _header_of(descriptor, status.st_size)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from None
    try:
        content = mmap.mmap(descriptor, status.st_size, prot=mmap.PROT_READ)
    except ValueError:  # the file is shorter by now
        raise InvalidArgument(f"{path}: it was cut while it was read") from None
    tensors = SafeTensors()
    tensors.metadata = header.metadata
    for entry in header.entries:
        tensors[entry.name] = _array(entry, descriptor, content, start, path)
    return tensors


def _header_of(descriptor: int, file_size: int) -> tuple[int, format_.Header]:
    """Return where the data starts, and the checked header."""
    first = os.pread(descriptor, format_.LENGTH_SIZE, 0)
    if len(first) < format_.LENGTH_SIZE:
        raise InvalidArgument(f"{file_size} bytes are not a safetensors file")
    length = format_.check_length(int.from_bytes(first, "little"), file_size)
    start = format_.LENGTH_SIZE + length
    raw = os.pread(descriptor, length, format_.LENGTH_SIZE)
    return start, format_.parse_header(raw, file_size - start)


def _array(entry: format_.Entry, descriptor: int, content: mmap.mmap, start: int, path: str) -> Any:
    try:
        dtype = parse(entry.dtype)
    except ImportError as error:
        raise ImportError(f"{path}: {entry.name!r:.80} needs it: pip install 'shmhost[tensors]'") from error
    import numpy as np

    size = entry.end - entry.begin
    if size > READ_MAX:
        return np.ndarray(entry.shape, dtype, content, start + entry.begin)
    raw = os.pread(descriptor, size, start + entry.begin)
    if len(raw) < size:
        raise InvalidArgument(f"{path}: it was cut while it was read, in {entry.name!r:.80}")
    return np.ndarray(entry.shape, dtype, raw)
