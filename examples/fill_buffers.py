"""A C function fills buffers, whose addresses it reads from an iovec in shared memory.

The buffers are parts of a region under construction: the C function writes straight into the region that is
then published. Needs a C compiler.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import cffi

import shmclient
import shmhost

SIZES = (2, 5, 8, 11)

ffi = cffi.FFI()
ffi.cdef("struct iovec { void *iov_base; size_t iov_len; }; void fill(const struct iovec *iov, int count);")


def compiled(folder: str) -> Path:
    """Compile fill.c to a library and return its path."""
    library = Path(folder) / "fill.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, Path(__file__).parent / "fill.c"], check=True)
    return library


def main() -> None:
    """Have the C function fill the buffers; publish them; print them as a reader sees them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        shmhost.embedded() as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        native = ffi.dlopen(str(compiled(folder)))
        with shm.create("filled", 4096) as builder, shmclient.Pinner() as pinner:
            iov = builder.new(ffi, "struct iovec[]", len(SIZES))
            for entry, size in zip(iov, SIZES, strict=True):
                start = builder.alloc(size) - builder.data_address
                pinned = pinner.pin(builder.data[start : start + size])
                pinned.store(entry, "iov_base")  # zeroed again at the end of the block
                entry.iov_len = pinned.size
            native.fill(iov, len(SIZES))
        for line in bytes(shm.open("filled").data).replace(b"\0", b" ").split():
            if line.strip(b"X") == b"":
                print(line.decode())


if __name__ == "__main__":
    main()
