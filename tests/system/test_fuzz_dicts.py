"""Hostile indexes of dicts: readers in Python and C get values inside of the data, or an error, and soon.

Behind the index lies a page that must not be read (Python), or what a sanitizer watches (C).
"""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Iterator
from typing import NoReturn

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import Reader, check_inside, compiled, forked
from shmclient import RegionDict, _codecs, posix
from shmprotocol.errors import BadRegion
from shmprotocol.native.builtins import dict_make
from support import in_child, wait_until

DATA_SIZE = 4096
ROOM = 64 * 1024
KEYS = [f"key/{number}" for number in range(300)]
ASKED = ["key/0", "key/69", "", "none", "key/5"]
DESCRIPTIONS = [
    {"format": "ndarray", "dtype": "<u2", "shape": [4], "order": "C"},
    {"format": "bytes"},
    {"format": "bytes", "item": "d", "shape": [1]},
    {"format": "new"},
]
COUNT = 70


def index_of(count: int = COUNT) -> bytes:
    packed = [msgpack.packb(description) for description in DESCRIPTIONS]
    offsets, kinds = [8 * n for n in range(count)], [n % len(DESCRIPTIONS) for n in range(count)]
    index = dict_make(KEYS[:count], offsets, [8] * count, kinds, packed, 0, 0xCBF29CE484222325)
    assert index is not None
    return index


INDEX = index_of()
BUCKET_COUNT = 8
BUCKETS, ORDER = struct.unpack_from("<QQ", INDEX, 48)
RECORDS = [8 * unit for unit in struct.unpack_from(f"<{COUNT}I", INDEX, ORDER)]  # offsets, by key
EDGES = [0, 1, 2, 7, 8, 63, 64, COUNT, COUNT + 1, 127, 255, 256, 512, 4095, 4096, 4097, 1 << 31, 1 << 32]
EDGES += [len(INDEX) - 1, len(INDEX), len(INDEX) + 1, len(INDEX) // 8, len(INDEX) // 8 - 4, BUCKETS, ORDER]
EDGES += [(1 << 31) - 1, (1 << 32) - 1, 1 << 33, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, (1 << 64) - 40]


def patched(index: bytes, patches: list[tuple[int, bytes]]) -> bytes:
    changed = bytearray(index)
    for offset, content in patches:
        changed[offset : offset + len(content)] = content
    return bytes(changed)


def mutations() -> Iterator[bytes]:
    """Yield the index with each field of header, words and some records changed to each of the edges."""
    fields = [*range(0, 64, 4), *range(BUCKETS, BUCKETS + 4 * BUCKET_COUNT + 4, 4)]
    fields += [ORDER, ORDER + 4 * COUNT - 4]
    fields += [
        record + field
        for number in (0, 1, 5, 69)
        for record in [RECORDS[number]]
        for field in range(0, 48, 4)
    ]
    for field in fields:
        for edge in EDGES:
            yield patched(INDEX, [(field, struct.pack("<Q", edge)[: 8 if field % 8 == 0 else 4])])
            yield patched(INDEX, [(field, struct.pack("<I", edge % (1 << 32)))])
    for edge in EDGES:
        word = struct.pack("<I", edge % (1 << 32))
        yield patched(INDEX, [(BUCKETS, word * (BUCKET_COUNT + 1))])
        yield patched(INDEX, [(BUCKETS, (word + bytes(4)) * (BUCKET_COUNT // 2) + word)])
        yield patched(INDEX, [(record + 36, word) for record in RECORDS])
    yield from (INDEX[:size] for size in range(0, len(INDEX), 7))


# --- in Python


PRIVATE = posix.MAP_PRIVATE | posix.MAP_ANONYMOUS
AREA = posix.mmap(None, ROOM + 4096, posix.PROT_RDWR, PRIVATE)
posix.mprotect(memoryview(AREA.buffer)[ROOM:], posix.PROT_NONE)
DATA = posix.mmap(None, DATA_SIZE, posix.PROT_READ, PRIVATE)


def decoded(index: bytes) -> str:
    """Read a dict by this index; say what became of it."""
    start = (ROOM - len(index)) & -8
    view = memoryview(AREA.buffer)
    view[start : start + len(index)] = index
    try:
        value = _codecs.decode({"format": "dict", "index": start}, DATA.buffer, lambda: view[:ROOM])
    except BadRegion:
        return "refused"
    return ",".join([*(looked_up(value, key) for key in ASKED), listed(value)])


def looked_up(value: dict[str, object] | RegionDict, key: str) -> str:
    try:
        if key not in value:
            return "absent"
        check_inside(value[key], DATA.address, DATA.address + DATA_SIZE)
    except BadRegion:
        return "bad"
    except KeyError:  # the index has changed in between
        return "absent"
    return "value"


def listed(value: dict[str, object] | RegionDict) -> str:
    try:
        for item in value.values():
            check_inside(item, DATA.address, DATA.address + DATA_SIZE)
        assert repr(value)
    except BadRegion:
        return "bad"
    return "all"


@pytest.fixture(scope="module")
def python_reader() -> Iterator[Reader]:
    reader = Reader(lambda: forked(decoded))
    yield reader
    assert reader.stop() == 0


def test_index_that_changes_while_it_is_read_harms_no_reader() -> None:
    """Its creator may write under a writer's seal: a number that was checked must not be loaded again."""
    area = posix.mmap(None, ROOM + 4096, posix.PROT_RDWR, posix.MAP_SHARED | posix.MAP_ANONYMOUS)
    posix.mprotect(memoryview(area.buffer)[ROOM:], posix.PROT_NONE)
    start = (ROOM - len(INDEX)) & -8
    view = memoryview(area.buffer)[start:ROOM]
    view[: len(INDEX)] = INDEX
    writer = os.fork()
    if writer == 0:
        scribble(view)
    try:
        code = in_child(lambda: read_many_times(view))
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert code == 0


def scribble(index: memoryview) -> NoReturn:
    """Exchange a few numbers of records and words for edges and back, for ever."""
    words = np.frombuffer(index, "<u4", len(index) // 4)
    random = np.random.default_rng(1)
    fields = [RECORDS[number] + field for number in range(COUNT) for field in (8, 16, 24, 32, 36)]
    fields += range(BUCKETS, BUCKETS + 4 * BUCKET_COUNT + 4, 4)
    parts = [random.choice(np.array(fields) // 4, 4) for _ in range(1000)]
    edges = [random.choice(np.array(EDGES, "u8"), 4).astype("u4") for _ in range(1000)]
    good = words.copy()
    while True:
        for part, edge in zip(parts, edges, strict=True):
            words[part] = edge
            words[part] = good[part]


def read_many_times(index: memoryview) -> None:
    value = RegionDict.__new__(RegionDict)
    value._start(index, DATA.buffer)
    seen: set[str] = set()
    for number in range(5000):
        seen.add(listed(value))
        seen |= {looked_up(value, KEYS[(number + step) % COUNT]) for step in range(5)}
    assert seen >= {"value", "bad", "all"}


# --- in C


PROGRAM = r"""
#include "shm_dict.h"
#include <stdio.h>

static unsigned sum; /* what is read is used, so that no compiler leaves the reading out */

static const char *touch(const struct shm_dict *dict, const struct shm_dict_value *value)
{
        const char *index = (const char *)dict->index;
        const char *description = (const char *)value->description;
        const unsigned char *data = (const unsigned char *)value->data;

        if (value->key < index || value->key_size > dict->size - (uint64_t)(value->key - index) ||
            description < index || value->description_size > dict->size - (uint64_t)(description - index) ||
            data < dict->data || value->size > dict->data_size - (uint64_t)(data - dict->data))
                return "outside";
        for (uint64_t i = 0; i < value->key_size; i++)
                sum += (unsigned char)value->key[i];
        for (uint64_t i = 0; i < value->description_size; i++)
                sum += (unsigned char)description[i];
        for (uint64_t i = 0; i < value->size; i++)
                sum += data[i];
        return "value";
}

static const char *look_up(const struct shm_dict *dict, const char *key)
{
        struct shm_dict_value value;
        int error = shm_dict_find(dict, key, strlen(key), &value);

        return error == 0 ? touch(dict, &value) : error == -ENOENT ? "absent" : "bad";
}

static const char *list(const struct shm_dict *dict)
{
        for (uint64_t i = 0; i <= dict->count; i++) {
                struct shm_dict_value value;

                if (shm_dict_at(dict, i, &value) != 0)
                        return i == dict->count ? "all" : "bad";
                if (strcmp(touch(dict, &value), "value") != 0)
                        return "outside";
        }
        return "too many";
}

int main(int argc, char **argv)
{
        unsigned char *data = (unsigned char *)calloc(4096, 1);
        uint32_t size;

        while (fread(&size, sizeof(size), 1, stdin) == 1) {
                unsigned char *index = (unsigned char *)malloc(size);
                struct shm_dict dict;

                alarm(30);
                if (size != 0 && fread(index, size, 1, stdin) != 1)
                        return 3;
                if (shm_dict_check(index, size, data, 4096, &dict) != 0) {
                        printf("refused\n");
                } else {
                        for (int i = 1; i < argc; i++)
                                printf("%s,", look_up(&dict, argv[i]));
                        printf("%s\n", list(&dict));
                }
                fflush(stdout);
                alarm(0);
                free(index);
        }
        free(data);
        return sum == 1u << 31;
}
"""


@pytest.fixture(scope="module")
def c_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A native reader, compiled with sanitizers where the compiler has them."""
    with compiled(PROGRAM, tmp_path_factory.mktemp("reader"), *ASKED) as reader:
        yield reader


@pytest.fixture(params=["python_reader", "c_reader"])
def reader(request: pytest.FixtureRequest) -> Reader:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_reader_may_be_left_alone_between_two_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an example that takes long is a hang: `make fuzz` asks the other reader for minutes."""
    monkeypatch.setattr("fuzzing.PATIENCE_S", 1)
    reader = Reader(lambda: forked(lambda _: "here"))
    assert reader.ask(b"") == "here"
    end = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > end)
    assert reader.ask(b"") == "here"
    assert reader.stop() == 0


def check_verdict(verdict: str) -> None:
    assert verdict == "refused" or set(verdict.split(",")) <= {"value", "absent", "bad", "all"}, verdict


def test_good_index_has_its_values(reader: Reader) -> None:
    assert reader.ask(INDEX) == "value,value,absent,absent,value,all"
    assert reader.ask(index_of(5)) == "value,absent,absent,absent,absent,all"
    assert reader.ask(index_of(0)) == "absent,absent,absent,absent,absent,all"


def test_each_field_may_lie(reader: Reader) -> None:
    verdicts = {"refused": 0, "other": 0}
    for index in mutations():
        verdict = reader.ask(index)
        check_verdict(verdict)
        verdicts["refused" if verdict == "refused" else "other"] += 1
    assert min(verdicts.values()) > 100


REFUSED = {
    "magic": (0, b"SHMDICt"),
    "version": (8, b"\2"),
    "version of four bytes": (11, b"\1"),
    "more than there is": (16, struct.pack("<Q", len(INDEX) + 8)),
    "less than its words": (16, struct.pack("<Q", ORDER + 4 * COUNT - 1)),
    "no bucket": (32, struct.pack("<Q", 0)),
    "buckets that are not a power of two": (32, struct.pack("<Q", 3)),
    "too many keys": (24, struct.pack("<Q", len(INDEX) // 4)),
    "words that are not aligned": (48, struct.pack("<Q", BUCKETS + 1)),
    "order behind the end": (56, struct.pack("<Q", len(INDEX) + 4)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_header_that_breaks_a_rule_is_refused(name: str, reader: Reader) -> None:
    assert reader.ask(patched(INDEX, [REFUSED[name]])) == "refused"


def test_bucket_of_too_many_keys_is_not_searched_to_its_end(reader: Reader) -> None:
    index, bucket_count = index_of(300), 32
    buckets = struct.unpack_from("<Q", index, 48)[0]
    start, *_, end = struct.unpack_from(f"<{bucket_count + 1}I", index, buckets)
    merged = patched(index, [(32, struct.pack("<Q", 1)), (buckets, struct.pack("<II", start, end))])
    verdicts = reader.ask(merged).split(",")
    assert verdicts[2:4] == ["bad", "bad"]  # of keys that are not there
    assert verdicts[-1] == "all"


def test_index_that_is_not_aligned_is_refused() -> None:
    with pytest.raises(BadRegion, match="corrupt"):
        _codecs.decode({"format": "dict", "index": 1}, DATA.buffer, lambda: memoryview(b"\0" + INDEX))


PATCHES = st.tuples(
    st.integers(0, 40) | st.sampled_from(range(0, len(INDEX), 4)) | st.integers(0, len(INDEX)),
    st.sampled_from(EDGES).map(lambda edge: struct.pack("<Q", edge)) | st.binary(max_size=8),
)
INDEXES = st.builds(patched, st.sampled_from([INDEX, index_of(3)]), st.lists(PATCHES, max_size=4))


@given(index=INDEXES)
def test_index_that_is_nearly_right_harms_no_reader_in_python(index: bytes, python_reader: Reader) -> None:
    check_verdict(python_reader.ask(index))


@given(index=INDEXES)
def test_index_that_is_nearly_right_harms_no_reader_in_c(index: bytes, c_reader: Reader) -> None:
    check_verdict(c_reader.ask(index))


@given(raw=st.binary(max_size=300), is_started=st.booleans())
def test_bytes_of_anything_harm_no_reader(
    raw: bytes, is_started: bool, python_reader: Reader, c_reader: Reader
) -> None:
    raw = INDEX[:16] + raw if is_started else raw
    check_verdict(python_reader.ask(raw))
    check_verdict(c_reader.ask(raw))
