"""A file is read into parts of a region under construction by one `readv`: there is no copy in between."""

from __future__ import annotations

import tempfile

import cffi

import shmclient
import shmhost

SIZES = (2, 5, 8, 11)
ROOM = 64  # bytes from the start of one part to the start of the next

ffi = cffi.FFI()
ffi.cdef("ssize_t readv(int fd, const void *iov, int count);")


def parts(builder: shmclient.RegionBuilder, first: int) -> list[memoryview]:
    """Return four parts of a region's payload, from the byte `first` on."""
    starts = range(first, first + ROOM * len(SIZES), ROOM)
    return [builder.data[start : start + size] for start, size in zip(starts, SIZES, strict=True)]


def main() -> None:
    """Read, with the C library's readv and then with shmclient's; publish; print what a reader finds."""
    libc = ffi.dlopen(None)
    with (
        tempfile.TemporaryFile() as file,
        shmhost.embedded() as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        file.write(b"X" * sum(SIZES) + b"Y" * sum(SIZES))
        file.seek(0)
        with shm.create("read", 1024) as builder, shmclient.Pinner() as pinner:
            iov = pinner.iovec(parts(builder, 0))  # in private memory; what it points to is in the region
            if libc.readv(file.fileno(), ffi.cast("void *", iov.address), len(iov)) != iov.nbytes:
                raise OSError(ffi.errno, "readv was short")
            shmclient.readv(file, pinner.iovec(parts(builder, 512)))
        for line in bytes(shm.open("read").data).replace(b"\0", b" ").split():
            print(line.decode())


if __name__ == "__main__":
    main()
