"""Structures with pointers in an arena: what goes in comes out, what goes wrong gives its memory back."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from typing import Any

import cffi
import pytest

import shmclient
from arena_programs import compiled, needs_compiler
from arena_support import CAMERA_SIZE, ArenaPeer
from shmclient import Arena, PointerEscapes, unchecked
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import RawPeer, WatchedHost, in_child, wait_until

FFI = cffi.FFI()
FFI.cdef("struct node { struct node *next; const char *word; int number; };")
WORDS = [b"one", b"", b"three"]


def build_chain(builder: Any, words: list[bytes]) -> Any:
    """Return the last of a chain of nodes, which leads to the others."""
    head = FFI.NULL
    for number, word in enumerate(words):
        text = builder.bytes(word)
        head = builder.new(FFI, "struct node *", {"next": head, "word": text, "number": number})
    return head


def words_of(node: Any) -> list[tuple[bytes, int]]:
    words = []
    while node:
        words.append((FFI.string(node.word), node.number))
        node = node.next
    return words


def used(arena: Arena) -> int:
    """Return the bytes of blocks in use, with those of values that were replaced."""
    return int(arena._state()[1])


def test_pointers_lead_to_what_was_built(arena: Arena, other: shmclient.Client) -> None:
    with arena.build("graph", 4096) as builder:
        assert "graph" not in arena
        builder.set_root(build_chain(builder, WORDS))
    value = other.open("camera/graph")
    assert words_of(value.root(FFI, "struct node *")) == [(b"three", 2), (b"", 1), (b"one", 0)]
    assert value.metadata == {"format": "objects", "root": "struct node *"}
    assert builder.address <= value.root(FFI, "struct node *").next.word - FFI.cast("char *", 0)


def test_root_keeps_its_value(arena: Arena, other: shmclient.Client) -> None:
    with arena.build("graph", 4096) as builder:
        builder.set_root(build_chain(builder, WORDS))
    node = other.open("camera/graph").root(FFI, "struct node *")
    for number in range(3000):
        with arena.build("graph", 4096) as builder:
            builder.set_root(build_chain(builder, [b"%d" % number]))
    assert words_of(node) == [(b"three", 2), (b"", 1), (b"one", 0)]
    assert words_of(other.open("camera/graph").root(FFI, "struct node *")) == [(b"2999", 0)]


def test_new_and_set_root_publish_what_was_made(arena: Arena, other: shmclient.Client) -> None:
    for turn in range(200):
        head = FFI.NULL
        for number in range(10):
            head = arena.new(FFI, "struct node *", {"next": head, "number": turn + number})
        generation = arena.set_root("graph", head)
        value = other.open("camera/graph")
        assert value.generation == generation
        node = value.root(FFI, "struct node *")
        assert (node.number, node.next.number) == (turn + 9, turn + 8)
        assert value.size <= 10 * FFI.sizeof("struct node") + 16
    with pytest.raises(shmclient.InvalidArgument, match=r"make it with new\(\)"):
        arena.set_root("graph", head)


def test_new_gives_back_what_is_not_used(arena: Arena) -> None:
    before = used(arena)
    for number in range(500):
        arena.set_root(f"graph/{number}", arena.new(FFI, "struct node *", {"number": number}))
    assert used(arena) - before < 500 * 4096 * 1.1
    assert [arena[f"graph/{number}"].nbytes for number in range(500)] == [24] * 500


def test_new_takes_less_when_the_arena_is_nearly_full(arena: Arena, other: shmclient.Client) -> None:
    count = 0
    try:
        while True:
            arena[f"fill/{count}"] = bytes(64 << 10)
            count += 1
    except shmclient.ArenaFull:
        del arena["fill/0"]
    arena.set_root("graph", arena.new(FFI, "struct node *", {"number": 7}))
    assert other.open("camera/graph").root(FFI, "struct node *").number == 7


RELOCATED = """
import ctypes, sys, cffi
base, node = int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
FIXED_PRIVATE_ANONYMOUS = 0x10 | 0x02 | 0x20
assert libc.mmap(base, 4096, 0, FIXED_PRIVATE_ANONYMOUS, -1, 0) == base
import shmclient
ffi = cffi.FFI()
ffi.cdef("struct node { struct node *next; const char *word; int number; };")
with shmclient.connect(sys.argv[1]) as shm:
    value = shm.open("camera/graph", anywhere=True)
    assert value.is_relocated
    try:
        value.root(ffi, "struct node *")
    except shmclient.AddressConflict as error:
        assert f"its pointers are made for {base:#x}" in str(error), error
    else:
        raise SystemExit("no conflict")
    assert value.translate(node) != node
    assert ffi.cast("struct node *", value.translate(node)).number == 2
    try:
        value.translate(base - 1)
    except shmclient.InvalidArgument:
        print("outside")
"""


def test_pointers_of_a_relocated_arena_are_translated(arena: Arena, host: WatchedHost) -> None:
    with arena.build("graph", 4096) as builder:
        head = build_chain(builder, WORDS)
        builder.set_root(head)
    with shmclient.connect(host.socket_path) as client:
        base = client.stat("camera").address
    addresses = str(base), str(int(FFI.cast("uintptr_t", head)))
    command = [sys.executable, "-c", RELOCATED, host.socket_path, *addresses]
    assert subprocess.check_output(command, text=True, timeout=30) == "outside\n"


def test_root_is_read_by_another_process(arena: Arena, host: WatchedHost) -> None:
    with arena.build("graph", 4096) as builder:
        builder.set_root(build_chain(builder, WORDS))
    program = """
import sys, cffi, shmclient
ffi = cffi.FFI()
ffi.cdef("struct node { struct node *next; const char *word; int number; };")
with shmclient.connect(sys.argv[1]) as shm:
    node = shm.open("camera/graph").root(ffi, "struct node *")
    while node:
        print(ffi.string(node.word).decode(), node.number)
        node = node.next
"""
    command = [sys.executable, "-c", program, host.socket_path]
    assert subprocess.check_output(command, text=True, timeout=50) == "three 2\n 1\none 0\n"


@needs_compiler
@pytest.mark.parametrize("way", ["c11", "c++17", "sanitized"])
def test_root_is_read_by_c(arena: Arena, host: WatchedHost, way: str) -> None:
    with arena.build("graph", 4096) as builder:
        builder.set_root(build_chain(builder, WORDS))
    with ArenaPeer(host.socket_path) as peer:
        opened, fds = peer.opened("camera")
        grant, line_fd = opened.grants[0], board_descriptor(host)
        numbers = (fds[0], -1, line_fd, grant.line, grant.region, grant.size + 4096, grant.capacity)
        line = " ".join(map(str, (*numbers, grant.address, fds[1], fds[2], "camera")))
        result = subprocess.run(
            [compiled("chain", way), "camera", "graph"],
            pass_fds=[*fds, line_fd],
            env=os.environ | {"SHM_ARENAS": line},
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        descriptors.close_all([*fds, line_fd])
    assert (result.stdout, result.stderr) == ("three 2\n 1\none 0\n", "")


def board_descriptor(host: WatchedHost) -> int:
    """Return a descriptor of the host's board, as a client gets it."""
    with RawPeer(host.socket_path, greet=False) as peer:
        peer.send(pack(m.Hello(1, m.VERSION, m.VERSION, "board")))
        return descriptors.receive(peer.socket)[1].pop()


def test_pointer_out_of_the_value_is_found(
    arena: Arena, other: shmclient.Client, shm: shmclient.Client
) -> None:
    private = FFI.new("char[]", b"private")
    arena["neighbour"] = b"another value"
    neighbour = FFI.cast("char *", other.open("camera/neighbour").address)
    shm.put("region", b"sealed").close()
    region = shm.open("region")
    before = used(arena)
    for stray in (private, neighbour, FFI.cast("char *", region.address), FFI.cast("char *", 8)):
        reason = r"root\.word in region 'camera/graph'"
        with pytest.raises(PointerEscapes, match=reason), arena.build("graph", 4096) as builder:
            builder.set_root(builder.new(FFI, "struct node *", {"word": stray}))
        pointer = arena.new(FFI, "struct node *", {"word": stray})
        with pytest.raises(PointerEscapes, match=reason):
            arena.set_root("graph", pointer)
    with pytest.raises(PointerEscapes), arena.build("graph", 4096) as builder:
        root = builder.new(FFI, "struct node *")
        root.next = FFI.cast("struct node *", builder.address + 4000)  # in the block, but nothing is there
        builder.set_root(root)
    assert "graph" not in arena
    assert used(arena) == before
    with unchecked(), arena.build("graph", 4096) as builder:
        builder.set_root(builder.new(FFI, "struct node *", {"word": private}))
    assert "graph" in arena


def test_exception_in_the_block_undoes_everything(arena: Arena, other: shmclient.Client) -> None:
    arena["graph"] = b"before"
    before = used(arena)
    for _ in range(50):
        with pytest.raises(ZeroDivisionError), arena.build("graph", 1 << 20) as builder:
            builder.set_root(build_chain(builder, WORDS))
            1 / 0
    assert (bytes(other.get("camera/graph")), used(arena)) == (b"before", before)
    with pytest.raises(shmclient.RegionClosed, match="published or given up"):
        builder.alloc(1)


def test_block_without_a_root_is_undone(arena: Arena) -> None:
    before = used(arena)
    with pytest.raises(shmclient.InvalidArgument, match="no root"), arena.build("graph", 4096) as builder:
        builder.new(FFI, "struct node *")
    assert ("graph" in arena, used(arena)) == (False, before)


def test_root_elsewhere_is_refused(arena: Arena) -> None:
    with pytest.raises(shmclient.InvalidArgument, match="has no root"), arena.build("graph", 4096) as builder:
        for address in (0, builder.address - 8, builder.address + 16, builder.address + (1 << 20)):
            with pytest.raises(shmclient.InvalidArgument, match="is not in the block"):
                builder.set_root(FFI.cast("int *", address))
        with pytest.raises(TypeError):
            builder.set_root(builder.address)
    arena.new(FFI, "struct node *")
    with pytest.raises(shmclient.InvalidArgument, match="is not in the block of 'camera/graph'"):
        arena.set_root("graph", FFI.new("struct node *"))


def test_block_takes_its_last_byte_and_not_one_more(arena: Arena) -> None:
    with arena.build("full", 100) as builder:
        builder.alloc(96, 1)
        root = builder.new(FFI, "int *", 5)
        with pytest.raises(shmclient.InvalidArgument, match="0 of 100 are left"):
            builder.alloc(1, 1)
        builder.set_root(root)
    assert arena["full"].nbytes == 100
    with pytest.raises(shmclient.ArenaFull), arena.build("large", CAMERA_SIZE):
        pass
    with pytest.raises(shmclient.InvalidArgument, match="do not fit"):
        arena.new(FFI, "char[]", CAMERA_SIZE)
    for size, align in ((-1, 1), (1, 0), (1, 3)):
        with arena.build("x", 100) as builder:
            with pytest.raises(shmclient.InvalidArgument):
                builder.alloc(size, align)
            builder.set_root(builder.new(FFI, "int *"))


def test_memory_of_other_values_is_zeroed(arena: Arena) -> None:
    for number in range(20):
        arena[f"x{number}"] = b"\xff" * 4000
    for number in range(20):
        del arena[f"x{number}"]
    for _ in range(40):
        with arena.build("graph", 3500) as builder:
            array = builder.new(FFI, "char[]", 3400)
            assert FFI.buffer(array)[:] == bytes(3400)
            builder.set_root(array)
    words = arena.new(FFI, "long[]", 1000)
    assert list(words) == [0] * 1000


def test_room_that_is_left_is_used_by_others(arena: Arena) -> None:
    """The tail of a block is given back when it is published: not its head, which readers hold."""
    held = []
    for number in range(50):
        with arena.build(f"graph/{number}", CAMERA_SIZE // 4) as builder:
            builder.set_root(builder.new(FFI, "int[]", [number] * 1000))
        held.append(arena[f"graph/{number}"])
        arena[f"x{number}"] = b"\xff" * 40_000
    for number, value in enumerate(held):
        assert memoryview(value).cast("i")[999] == number


def test_name_of_a_type_can_be_too_long(arena: Arena) -> None:
    ffi = cffi.FFI()
    ffi.cdef(f"struct {'n' * 600} {{ int number; }};")
    before = used(arena)
    with pytest.raises(shmclient.InvalidArgument, match="too long"), arena.build("x", 100) as builder:
        builder.set_root(builder.new(ffi, f"struct {'n' * 600} *"))
    assert used(arena) == before


def test_draft_goes_with_its_arena(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    arena = shm.arena("brief", CAMERA_SIZE, keep=False)
    arena.new(FFI, "struct node *")
    arena.close()
    wait_until(lambda: host.is_back_at(before))
    with pytest.raises(shmclient.Closed):
        arena.new(FFI, "struct node *")
    arena = shm.arena("brief", CAMERA_SIZE, keep=False)
    arena.new(FFI, "struct node *")
    del arena
    gc.collect()
    wait_until(lambda: host.is_back_at(before))


def test_forked_child_cannot_go_on_building(arena: Arena, other: shmclient.Client) -> None:
    pointer = arena.new(FFI, "struct node *", {"number": 1})
    with arena.build("graph", 4096) as builder:

        def build() -> None:
            for call in (
                lambda: builder.alloc(8),
                lambda: arena.new(FFI, "int *"),
                lambda: builder.bytes(b"1"),
            ):
                with pytest.raises(shmclient.InvalidArgument, match="forked"):
                    call()
            builder.discard()

        assert in_child(build) == 0
        builder.set_root(builder.new(FFI, "struct node *", {"number": 2}))
    arena.set_root("new", pointer)
    numbers = [other.open(f"camera/{name}").root(FFI, "struct node *").number for name in ("graph", "new")]
    assert numbers == [2, 1]
