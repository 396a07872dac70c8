"""A reader process of the demo: `python -m shmhost.commands.demo.reader REGION --bench SECONDS | --write`.

Works like reader.c: prints a line of JSON, then waits for EOF on its standard input, or writes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import cffi

import shmclient
from shmhost.commands.demo.index import find, make_ffi

ROUND = 500  # lookups between two looks at the clock


def walk(ffi: cffi.FFI, index: Any, limit: int) -> list[bytes]:
    """Return the first words of the hash table."""
    words: list[bytes] = []
    for bucket in range(index.bucket_count):
        entry = index.buckets[bucket]
        while entry:
            words.append(ffi.buffer(entry.word, entry.word_size)[:])
            entry = entry.next
        if len(words) >= limit:
            break
    return words


def lookups_per_s(ffi: cffi.FFI, index: Any, seconds: float) -> tuple[float, int]:
    """Look words up for some seconds; return the rate, and the number of misses."""
    words = walk(ffi, index, 50 * ROUND)
    began = time.monotonic()
    elapsed, done, missed = 0.0, 0, 0
    while words and elapsed < seconds:
        start = done % len(words)
        for word in words[start : start + ROUND]:
            entry = find(ffi, index, word)
            missed += entry is None or not entry.postings[entry.posting_count - 1].line
            done += 1
        elapsed = time.monotonic() - began
    return done / elapsed if elapsed else 0.0, missed


def main(name: str, task: str, seconds: float) -> None:
    """Attach the region and do one task."""
    ffi = make_ffi()
    with shmclient.connect() as shm, shm.open(name) as region:
        index = region.root(ffi, "struct word_index *")
        report = {"pid": os.getpid(), "address": region.address}
        if task == "--write":
            print(json.dumps(report), flush=True)
            index.entry_count = 0  # the kernel ends this process here
            sys.exit("the region was written to")
        rate, missed = lookups_per_s(ffi, index, seconds)
        print(json.dumps(report | {"lookups_per_s": rate, "missed": missed}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 1.0)
