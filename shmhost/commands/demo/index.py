"""The word index: collected from files, laid out in a region, followed by its pointers. Prints nothing.

The structures are those of `word_index.h` among the examples, which is also their cffi declaration.
"""

from __future__ import annotations

import importlib.resources
import re
import struct
import sysconfig
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cffi

from shmclient import RegionBuilder

WORD = re.compile(rb"\b[A-Za-z_][A-Za-z0-9_]*")
LINE_SHIFT = 32  # a posting is a u64 in memory: file below, line above (little-endian)
_ENTRY = struct.Struct("<QQQIIQ")
_POINTER, _POSTING = 8, 8
_FNV_OFFSET, _FNV_PRIME, _U64 = 0xCBF29CE484222325, 0x100000001B3, 2**64 - 1


def make_ffi() -> cffi.FFI:
    """Return a cffi FFI that knows the structures of the index."""
    ffi = cffi.FFI()
    header = importlib.resources.files("shmprotocol.examples") / "word_index.h"
    ffi.cdef(header.read_text().split("/* cffi: begin */")[1].split("/* cffi: end */")[0])
    return ffi


def standard_library() -> tuple[Path, list[Path]]:
    """Return the folder of the running interpreter's library, and all its `.py` files, sorted."""
    folder = Path(sysconfig.get_path("stdlib"))
    inside = (path for path in folder.rglob("*.py") if "site-packages" not in path.relative_to(folder).parts)
    return folder, sorted(path for path in inside if path.is_file())


@dataclass(slots=True)
class Words:
    """The words of some files: for each its postings, in the order of files and lines."""

    files: list[bytes] = field(default_factory=list)
    postings: dict[bytes, array[int]] = field(default_factory=dict)
    unreadable: int = 0  # files that were left out

    def add(self, name: str, text: bytes) -> None:
        """Add a file. Words are those of ASCII; any bytes will do. A word counts once a line."""
        number = len(self.files)
        self.files.append(name.encode("utf-8", "surrogateescape"))
        postings = self.postings
        for line, content in enumerate(text.split(b"\n"), 1):
            posting = line << LINE_SHIFT | number
            for word in set(WORD.findall(content)):
                places = postings.get(word)
                if places is None:
                    postings[word] = array("Q", (posting,))
                else:
                    places.append(posting)

    def posting_count(self) -> int:
        """Return the number of all postings."""
        return sum(map(len, self.postings.values()))

    def size(self) -> int:
        """Return the bytes of the index in a region, with some room for alignment."""
        texts = sum(len(text) + 1 for text in (*self.files, *self.postings))
        entries = len(self.postings) * _ENTRY.size
        pointers = (bucket_count(len(self.postings)) + len(self.files)) * _POINTER
        return 4096 + texts + entries + pointers + self.posting_count() * _POSTING


def read_words(folder: Path, files: Iterable[Path]) -> Iterator[Words]:
    """Read files one by one; yield the same, growing Words after each file, readable or not."""
    words = Words()
    for path in files:
        try:
            text = path.read_bytes()
        except OSError:
            words.unreadable += 1
        else:
            words.add(str(path.relative_to(folder)), text)
        yield words


def bucket_count(entries: int) -> int:
    """Return the size of the hash table: a power of two, at least one bucket for each entry."""
    return 1 << max(entries - 1, 1).bit_length()


def word_hash(word: bytes) -> int:
    """Return the FNV-1a hash of a word, as `word_hash` in word_index.h."""
    value = _FNV_OFFSET
    for byte in word:
        value = (value ^ byte) * _FNV_PRIME & _U64
    return value


# The lengths of the arrays, which the types lack. Publishing checks all pointers in the arrays.
LENGTHS = {
    "struct word_index.buckets": "bucket_count",
    "struct word_index.files": "file_count",
    "struct entry.postings": "posting_count",
}


def build(builder: RegionBuilder, ffi: cffi.FFI, words: Words) -> None:
    """Lay the index out in a region and make it the root.

    Each kind of thing is one block, written at once: a call for each of 100,000 entries would take longer
    than reading the files.
    """
    count = len(words.postings)
    buckets = array("Q", bytes(_POINTER * bucket_count(count)))
    entries = builder.alloc(_ENTRY.size * count, 8)
    texts = _place_texts(builder, words.postings)
    postings = _place_postings(builder, words)
    packed = _pack_entries(words, buckets, entries, texts, postings)
    _write(builder, entries, packed)
    root = {
        "bucket_count": len(buckets),
        "buckets": ffi.cast("void *", _place_array(builder, buckets)),
        "files": ffi.cast("void *", _place_array(builder, _place_texts(builder, words.files))),
        "file_count": len(words.files),
        "entry_count": count,
        "posting_count": words.posting_count(),
    }
    builder.set_root(builder.new(ffi, "struct word_index *", root), lengths=LENGTHS)


def _pack_entries(
    words: Words, buckets: array[int], address: int, texts: Sequence[int], postings: Sequence[int]
) -> bytearray:
    """Return the entries, to lie at an address, and put each into its bucket, before those already there."""
    packed = bytearray(_ENTRY.size * len(words.postings))
    for index, (word, places) in enumerate(words.postings.items()):
        value = word_hash(word)
        bucket = value & len(buckets) - 1
        _ENTRY.pack_into(
            packed,
            index * _ENTRY.size,
            buckets[bucket],
            texts[index],
            value,
            len(word),
            len(places),
            postings[index],
        )
        buckets[bucket] = address + index * _ENTRY.size
    return packed


def find(ffi: cffi.FFI, index: Any, word: bytes) -> Any:
    """Follow the pointers to the entry of a word; None when there is none."""
    value = word_hash(word)
    entry = index.buckets[value & index.bucket_count - 1]
    while entry:
        if entry.hash == value and ffi.buffer(entry.word, entry.word_size)[:] == word:
            return entry
        entry = entry.next
    return None


def places(ffi: cffi.FFI, index: Any, word: bytes) -> Iterator[tuple[str, int]]:
    """Yield file and line of each posting of a word."""
    entry = find(ffi, index, word)
    for number in range(entry.posting_count if entry is not None else 0):
        posting = entry.postings[number]
        name: Any = ffi.string(index.files[posting.file])
        yield name.decode("utf-8", "surrogateescape"), posting.line


def _place_texts(builder: RegionBuilder, texts: Iterable[bytes]) -> array[int]:
    """Copy texts in, each with a zero byte behind it; return their addresses."""
    strings = list(texts)
    address = builder.alloc(sum(map(len, strings)) + len(strings), 1)
    _write(builder, address, b"".join(text + b"\0" for text in strings))
    addresses = array("Q")
    for text in strings:
        addresses.append(address)
        address += len(text) + 1
    return addresses


def _place_postings(builder: RegionBuilder, words: Words) -> array[int]:
    together, addresses = array("Q"), array("Q")
    start = builder.alloc(words.posting_count() * _POSTING, 8)
    for postings in words.postings.values():
        addresses.append(start + len(together) * _POSTING)
        together.extend(postings)
    _write(builder, start, together)
    return addresses


def _place_array(builder: RegionBuilder, values: array[int]) -> int:
    address = builder.alloc(len(values) * values.itemsize, 8)
    _write(builder, address, values)
    return address


def _write(builder: RegionBuilder, address: int, content: bytes | bytearray | array[int]) -> None:
    raw = memoryview(content).cast("B")
    start = address - builder.data_address
    builder.data[start : start + len(raw)] = raw
