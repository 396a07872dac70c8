"""The walk over pointers: a pointer out of shared memory is found by its path, and no other."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from typing import Any

import cffi
import pytest

import shmclient
from pointer_support import FFI, PRIVATE, check, new_node, reason, root_of
from shmclient import BadRegion, InvalidArgument, PointerEscapes, check_pointers, unchecked
from support import in_child


def test_path_leads_from_the_root_to_the_bad_pointer(builder: shmclient.RegionBuilder) -> None:
    table = root_of(builder)
    last = new_node(builder, word=PRIVATE)
    table.buckets[17] = new_node(builder, next=last, word=builder.bytes(b"good"))
    slot = int(FFI.cast("uintptr_t", FFI.addressof(last, "word")))
    address = int(FFI.cast("uintptr_t", PRIVATE))
    assert reason(builder).startswith(
        f"root.buckets[17].next.word in region 'table' (the slot {slot:#x}) holds {address:#x}, which is "
        "private memory of this process"
    )


BAD: dict[str, Callable[[Any, Any], None]] = {
    "root.pairs[2].right.next": lambda table, bad: setattr(
        table.pairs[2].right, "next", bad("struct node *")
    ),
    "root.grid[1][2]": lambda table, bad: table.grid[1].__setitem__(2, bad("struct node *")),
    "root.words": lambda table, bad: setattr(table, "words", bad("char **")),
    "root.anything": lambda table, bad: setattr(table, "anything", bad("void *")),
    "root.call": lambda table, bad: setattr(table, "call", bad("int (*)(int)")),
    "root.opaque": lambda table, bad: setattr(table, "opaque", bad("struct opaque *")),
    "root.nested.inner": lambda table, bad: setattr(table.nested, "inner", bad("struct node *")),
    "root.buckets[0]": lambda table, bad: table.buckets.__setitem__(0, bad("struct node *")),
}


@pytest.mark.parametrize("path", BAD)
def test_every_place_of_a_pointer_is_looked_at(path: str, builder: shmclient.RegionBuilder) -> None:
    table = root_of(builder)
    check(builder)
    BAD[path](table, lambda ctype: FFI.cast(ctype, 0x1000))
    assert reason(builder).startswith(f"{path} in region")


def test_pointers_behind_pointers_are_followed(builder: shmclient.RegionBuilder) -> None:
    table = root_of(builder)
    words = builder.new(FFI, "char *[3]", [builder.bytes(b"a"), FFI.NULL, PRIVATE])
    table.words = words
    assert check(builder) > 0  # what lies behind the first is not known
    assert reason(builder, lengths={"struct table.words": 3}).startswith("root.words[2][0] in region")


def test_unions_bits_and_arrays_without_a_length_are_not_looked_at(builder: shmclient.RegionBuilder) -> None:
    table = root_of(builder)
    FFI.cast("long *", FFI.addressof(table, "either"))[0] = 0x1000
    table.bits = 5
    tail = builder.alloc(8, 8)
    FFI.cast("long *", tail)[0] = 0x1000
    assert check(builder) > 0


def test_every_object_is_counted_once_however_it_is_reached(builder: shmclient.RegionBuilder) -> None:
    """The root, 3 pairs with 2 nodes each and the nested structure are parts; 5 nodes make a ring."""
    table = root_of(builder)
    parts = check(builder)
    nodes = [new_node(builder) for _ in range(5)]
    for index, node in enumerate(nodes):
        node.next = nodes[(index + 1) % 5]
        table.buckets[index] = node
    assert check(builder) == parts + 5


@pytest.mark.parametrize("seed", range(20))
def test_walk_agrees_with_a_plain_one(seed: int, shm: shmclient.Client) -> None:
    """Random graphs of nodes, some with one bad pointer: found when it can be reached, and only then."""
    chance = random.Random(seed)
    with pytest.raises(ZeroDivisionError), shm.create("graph", 64 * 1024) as builder:
        nodes = [new_node(builder) for _ in range(200)]
        for node in nodes:
            node.next = chance.choice([*nodes, FFI.NULL, FFI.NULL])
        table = root_of(builder)
        for index in range(32):
            table.buckets[index] = chance.choice([*nodes[:100], FFI.NULL])
        bad = chance.choice(nodes)
        bad.word = PRIVATE
        reached: set[Any] = set()
        pending = [node for node in table.buckets if node]
        while pending:
            node = pending.pop()
            if node not in reached:
                reached.add(node)
                pending += [node.next] if node.next else []
        if bad in reached:
            assert ".word in region" in reason(builder)
        else:
            assert check(builder) == len(reached) + check_empty(shm)
        1 / 0


def check_empty(shm: shmclient.Client) -> int:
    with shm.create("empty", 4096) as builder:
        root_of(builder)
        return check(builder)


def test_long_path_is_shown_by_its_ends(shm: shmclient.Client) -> None:
    with pytest.raises(PointerEscapes) as caught, shm.create("chain", 1 << 20) as builder:
        node = new_node(builder, word=PRIVATE)
        for _ in range(9999):
            node = new_node(builder, next=node)
        builder.set_root(node)
    path = str(caught.value).split(" in region")[0]
    assert path == "root" + ".next" * 12 + " ... 9,976 steps ... " + ".next" * 11 + ".word"


@pytest.mark.parametrize("depth", [23, 24, 25])
def test_path_is_whole_up_to_its_limit(depth: int, builder: shmclient.RegionBuilder) -> None:
    node = new_node(builder, word=PRIVATE)
    for _ in range(depth - 1):
        node = new_node(builder, next=node)
    builder.set_root(node)
    with pytest.raises(PointerEscapes) as caught:
        check_pointers(builder, FFI, "struct node *")
    path = str(caught.value).split(" in region")[0]
    assert ("..." in path) == (depth > 24)
    assert path.count(".next") == min(depth, 24) - 1


@pytest.mark.parametrize("offset", [0, -1, 1, 4, 8])
def test_pointer_to_the_end_must_leave_room_for_the_object(
    offset: int, builder: shmclient.RegionBuilder
) -> None:
    table = root_of(builder)
    end = builder.data_address + builder.size
    last = end - FFI.sizeof("struct node")
    table.nodes = FFI.cast("struct node *", last + offset)
    if offset:
        assert "not aligned, or too near to its end" in reason(builder)
    else:
        assert check(builder) > 0
    table.nodes = FFI.NULL
    table.anything = FFI.cast("void *", end - 1 + offset)
    if offset > 0:
        assert "root.anything" in reason(builder)
    else:
        assert check(builder) > 0


@pytest.mark.parametrize("address", [1, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFF0, 1 << 63])
def test_any_address_is_looked_up_and_none_is_followed(
    address: int, builder: shmclient.RegionBuilder
) -> None:
    root_of(builder).nodes = FFI.cast("struct node *", address)
    assert "nothing: this process has no memory there" in reason(builder)


def test_misaligned_object_is_found_unless_its_type_is_packed(builder: shmclient.RegionBuilder) -> None:
    node = new_node(builder)
    links = builder.new(FFI, "struct links *")
    links.small = FFI.cast("struct small *", builder.alloc(5, 8) + 1)
    builder.set_root(links)
    assert check_pointers(builder, FFI, "struct links *") == 1
    links.shorts = FFI.cast("short *", builder.alloc(5, 8) + 1)
    with pytest.raises(PointerEscapes, match=r"root.shorts"):
        check_pointers(builder, FFI, "struct links *")
    packed = FFI.cast("struct packed *", builder.alloc(32, 8) + 3)
    packed.node = node
    builder.set_root(packed)
    assert check_pointers(builder, FFI, "struct packed *") == 2
    packed.node = FFI.cast("struct node *", 0x1000)
    with pytest.raises(PointerEscapes, match=r"root.node"):
        check_pointers(builder, FFI, "struct packed *")


def test_lengths_are_fields_or_numbers(builder: shmclient.RegionBuilder) -> None:
    table = root_of(builder)
    parts = check(builder)
    nodes = builder.new(FFI, "struct node[10]")
    table.nodes, table.count = nodes, 10
    nodes[9].word = PRIVATE
    assert check(builder) == parts + 1
    assert reason(builder, lengths={"struct table.nodes": "count"}).startswith("root.nodes[9].word in")
    assert check(builder, lengths={"struct table.nodes": 9}) == parts + 9
    table.count = 9
    assert check(builder, lengths={"struct table.nodes": "count"}) == parts + 9
    table.count = 0
    table.nodes = FFI.cast("struct node *", 0x1000)
    assert check(builder, lengths={"struct table.nodes": "count"}) == parts
    table.count, table.nodes = -1, nodes
    assert "root.nodes in region" in reason(builder, lengths={"struct table.nodes": "count"})


@pytest.mark.parametrize(
    "lengths",
    [
        {"struct table.missing": 3},
        {"struct other.nodes": 3},
        {"struct table.buckets": 3},
        {"struct table.nodes": "missing"},
        {"struct table.nodes": "words"},
        {"struct table.nodes": "bits"},
    ],
)
def test_lengths_of_what_is_not_there_are_refused(
    lengths: dict[str, Any], builder: shmclient.RegionBuilder
) -> None:
    root_of(builder)
    with pytest.raises(InvalidArgument):
        check(builder, lengths=lengths)


def make_ffi(text: str, **settings: Any) -> cffi.FFI:
    ffi = cffi.FFI()
    ffi.cdef("struct node { struct node *next; const char *word; int number; };" + text, **settings)
    return ffi


def test_anonymous_union_is_not_looked_at(shm: shmclient.Client) -> None:
    """cffi shows its fields as if they were the structure's own."""
    ffi = make_ffi("struct tag { int tag; union { struct node *p; long v; }; struct node *after; };")
    with shm.create("x", 4096) as builder:
        tag: Any = builder.new(ffi, "struct tag *", {"tag": 1})
        tag.v = 42
        builder.set_root(tag)
    with pytest.raises(PointerEscapes, match=r"root\.after "), shm.create("y", 4096) as builder:
        tag = builder.new(ffi, "struct tag *", {"after": ffi.cast("struct node *", 0x1000)})
        tag.v = 42
        builder.set_root(tag)


@pytest.mark.parametrize("ctype", ["struct node[]", "struct node[3]"])
def test_every_object_of_a_root_array_is_checked(ctype: str, shm: shmclient.Client) -> None:
    values = [{}, {}, {"word": PRIVATE}]
    with pytest.raises(PointerEscapes, match=r"root\[2\]\.word in"), shm.create("x", 4096) as builder:
        builder.set_root(builder.new(FFI, ctype, values))
    with unchecked(), shm.create("x", 4096) as builder:
        builder.set_root(builder.new(FFI, ctype, values))
    with pytest.raises(PointerEscapes, match=r"root\[2\]\.word in"):
        check_pointers(shm.open("x"), FFI, "struct node *")
    with shm.create("good", 4096) as builder:
        builder.set_root(builder.new(FFI, ctype, [{"word": builder.bytes(b"a")}] * 3))
    assert check_pointers(shm.open("good"), FFI, "struct node *") == 3


def test_root_array_without_a_length_is_checked(shm: shmclient.Client) -> None:
    with pytest.raises(PointerEscapes, match=r"root\[1\]\.word in"), shm.create("x", 4096) as builder:
        start = builder.alloc(48, 8) - builder.data_address
        nodes = FFI.from_buffer("struct node[]", builder.data[start : start + 48])
        nodes[1].word = PRIVATE
        builder.set_root(nodes)
        del nodes


def test_many_rows_may_share_one_table(shm: shmclient.Client) -> None:
    ffi = make_ffi(
        "struct row { long count; struct node *nodes; }; struct rows { long count; struct row *rows; };"
    )
    lengths = {"struct row.nodes": "count", "struct rows.rows": "count"}
    with shm.create("x", 1 << 20) as builder:
        nodes: Any = builder.new(ffi, "struct node[2000]")
        rows: Any = builder.new(ffi, "struct row[2000]", [{"count": 2000, "nodes": nodes}] * 2000)
        root: Any = builder.new(ffi, "struct rows *", {"count": 2000, "rows": rows})
        builder.set_root(root, lengths=lengths)
    assert check_pointers(shm.open("x"), ffi, "struct rows *", lengths=lengths) == 4001


def test_part_of_a_packed_structure_hides_no_other_object(shm: shmclient.Client) -> None:
    """Two objects a byte apart, one of them a part that no alignment holds for."""
    ffi = make_ffi("")
    ffi.cdef("struct wrapped { char tag; struct node node; };", packed=True)
    ffi.cdef("struct both { struct node *first; struct wrapped *second; };")
    with pytest.raises(PointerEscapes, match=r"root\.second\.node\.word"), shm.create("x", 4096) as builder:
        good: Any = builder.new(ffi, "struct node *")
        second: Any = ffi.cast("struct wrapped *", ffi.cast("uintptr_t", good))
        root: Any = builder.new(ffi, "struct both *", {"first": good, "second": second})
        good.number = 0x7F  # the highest byte of second.node.word, and no byte of good.word
        builder.set_root(root)


@pytest.mark.parametrize("kind", ["float", "double", "long double"])
def test_length_is_a_whole_number(kind: str, shm: shmclient.Client) -> None:
    ffi = make_ffi(f"enum few {{ NONE, ONE }}; struct odd {{ {kind} n; enum few few; struct node *nodes; }};")
    with pytest.raises(ZeroDivisionError), shm.create("x", 4096) as builder:
        odd: Any = builder.new(ffi, "struct odd *", {"few": 1, "nodes": builder.new(ffi, "struct node *")})
        builder.set_root(odd)
        with pytest.raises(InvalidArgument, match="no number 'n'"):
            check_pointers(builder, ffi, "struct odd *", lengths={"struct odd.nodes": "n"})
        assert check_pointers(builder, ffi, "struct odd *", lengths={"struct odd.nodes": "few"}) == 2
        1 / 0


def test_root_of_unknown_size_is_a_type_error(builder: shmclient.RegionBuilder) -> None:
    root_of(builder)
    for ctype in ("void *", "struct opaque *"):
        with pytest.raises(TypeError, match="known size"):
            check_pointers(builder, FFI, ctype)


def test_bad_pointer_is_told_also_when_no_descriptor_is_left(builder: shmclient.RegionBuilder) -> None:
    root_of(builder).anything = FFI.cast("void *", 0x1000)

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        assert "memory of unknown kind" in reason(builder)

    assert in_child(child) == 0


def test_hostile_tables_end_the_walk(builder: shmclient.RegionBuilder) -> None:
    """Each node claims the rest of the region as its table: N * N steps without a limit."""
    rows_ffi = cffi.FFI()
    rows_ffi.cdef("struct row { unsigned long count; struct row *rows; };")
    rows = builder.new(rows_ffi, "struct row[3000]")
    for index in range(3000):
        rows[index].count = 3000 - index
        rows[index].rows = rows + index
    builder.set_root(rows_ffi.cast("struct row *", rows))
    with pytest.raises(BadRegion, match=r"again and again|overlap"):
        check_pointers(builder, rows_ffi, "struct row *", lengths={"struct row.rows": "count"})


def test_overlapping_objects_end_the_walk(shm: shmclient.Client) -> None:
    """A node at every eighth byte: more than can lie side by side, and so no program's."""
    size = 64 * 1024  # far more than the room for metadata, which counts as well
    with unchecked(), shm.create("x", size) as builder:
        start = builder.alloc(size, 8)
        for address in range(start, start + size - 8, 8):
            FFI.cast("long *", address)[0] = address + 8
        FFI.cast("long *", start + size - 8)[0] = 0
        builder.set_root(FFI.cast("struct node *", start))
    with pytest.raises((BadRegion, PointerEscapes)):
        check_pointers(shm.open("x"), FFI, "struct node *")
