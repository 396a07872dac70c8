"""What the tests of pointers share: nodes in a region under construction, and how the check judges them."""

from __future__ import annotations

from typing import Any

import cffi
import pytest

import shmclient
from shmclient import PointerEscapes, check_pointers

FFI = cffi.FFI()
FFI.cdef(
    """
    struct node { struct node *next; const char *word; int number; };
    struct pair { struct node left, right; };
    struct table {
        struct node *buckets[32];
        struct pair pairs[3];
        struct node *grid[2][3];
        char **words;
        void *anything;
        int (*call)(int);
        struct opaque *opaque;
        union { void *pointer; long number; } either;
        unsigned bits : 3;
        int count;
        struct node *nodes;
        struct { struct node *inner; } nested;
        struct node *tail[];
    };
    struct small { char a; char b; };
    struct links { struct small *small; short *shorts; };
    """
)
FFI.cdef("struct packed { char tag; struct node *node; };", packed=True)
PRIVATE = FFI.new("char[]", b"private")


def new_node(builder: shmclient.RegionBuilder, **values: Any) -> Any:
    return builder.new(FFI, "struct node *", values)


def root_of(builder: shmclient.RegionBuilder) -> Any:
    table = builder.new(FFI, "struct table *")
    builder.set_root(table)
    return table


def check(builder: shmclient.RegionBuilder, **settings: Any) -> int:
    return check_pointers(builder, FFI, "struct table *", **settings)


def reason(builder: shmclient.RegionBuilder, **settings: Any) -> str:
    with pytest.raises(PointerEscapes) as caught:
        check(builder, **settings)
    return str(caught.value)
