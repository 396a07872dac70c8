"""The pointers to follow in a cffi type, and the walk over them in C. Knows no region, only memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shmprotocol.errors import InvalidArgument
from shmprotocol.native.binding import ffi, lib
from shmprotocol.tuples import NamedTuple

_CODE = ffi.typeof("void")  # what a pointer to a function leads to: never a part of a region
PATH_MAX = 24  # steps of a path that are shown, some four lines: first and last half of a longer one


class Pointed(NamedTuple):
    """Memory whose pointers can be walked: its own addresses, a view of it, and its root. Sizes are bytes."""

    name: str
    view: memoryview
    base: int
    size: int
    root: int
    root_size: int
    is_array: bool  # the root is several objects, as many as it has room for


def root_count(pointed: Pointed, item: Any) -> int:
    """Return how many roots of a cffi type follow each other."""
    if pointed.is_array and is_complete(item):
        return max(pointed.root_size // int(ffi.sizeof(item)), 1)
    return 1


class Stray(NamedTuple):
    """A pointer that leads out: where it is, what it holds, and how it is reached."""

    slot: int
    address: int
    path: str


class Plan:
    """All types that are reached from one of cffi, and what is to be followed in each. Type 0 is the root."""

    def __init__(self, root: Any, lengths: Mapping[str, str | int], count: int = 1) -> None:
        self._kinds = [root]
        self._count = count  # of roots in a row
        self._lengths = dict(lengths)
        self._numbers = {root: 0}
        self._types: list[tuple[int, int, int, int]] = []  # as struct shm_type
        self._unaligned: set[int] = set()  # types of parts of packed structures
        self._members: list[tuple[int, int, int, int, int, int, bool]] = []  # as struct shm_member
        self._labels: list[
            tuple[str, bool, bool]
        ] = []  # of each member: its name, is it an array, or a table
        while len(self._types) < len(self._kinds):
            self._add(self._kinds[len(self._types)])
        if self._lengths:
            raise InvalidArgument(f"lengths of what the root does not lead to: {', '.join(self._lengths)}")

    def check(self, pointed: Pointed) -> int | Stray:
        """Follow all pointers; return the first stray one, or how many objects there are, or -errno."""
        mapped = ffi.from_buffer(pointed.view)
        steps_of = [1 if number in self._unaligned else kind[1] for number, kind in enumerate(self._types)]
        all_types = [(*kind, step, 0) for kind, step in zip(self._types, steps_of, strict=True)]
        area = ffi.new("struct shm_range *", (pointed.base, pointed.size, int(ffi.cast("uintptr_t", mapped))))
        types = ffi.new("struct shm_type[]", all_types)
        members = ffi.new("struct shm_member[]", self._members)
        stray = ffi.new("struct shm_stray *")
        steps = ffi.new("struct shm_step[]", PATH_MAX)
        outcome: int = lib.shm_check_pointers(
            area, types, len(types), members, pointed.root, self._count, stray, steps, PATH_MAX
        )
        if stray.depth:
            root = f"root[{stray.root}]" if self._count > 1 else "root"
            return Stray(stray.slot, stray.address, root + self._path(steps, stray.depth))
        return outcome

    def _path(self, steps: Any, depth: int) -> str:
        shown = min(depth, PATH_MAX)
        parts = [self._step(steps[index], index == shown - 1) for index in range(shown)]
        if depth > PATH_MAX:
            parts.insert(PATH_MAX // 2, f" ... {depth - PATH_MAX:,} steps ... ")
        return "".join(parts)

    def _step(self, step: Any, is_last: bool) -> str:
        label, is_array, is_table = self._labels[step.member]
        # In the last step the pointer to a table is bad, not one of the objects in it.
        return f"{label}[{step.index}]" if is_array or (is_table and not is_last) else label

    def _number(self, kind: Any) -> int:
        if kind not in self._numbers:
            self._numbers[kind] = len(self._kinds)
            self._kinds.append(kind)
        return self._numbers[kind]

    def _add(self, kind: Any) -> None:
        first = len(self._members)
        for label, offset, part in _parts(kind):
            is_array = part.kind == "array"
            item, count = (part.item, part.length) if is_array else (part, 1)
            if not count or not _has_pointers(item):
                continue
            is_pointer = item.kind in ("pointer", "function")  # cffi calls a pointer to a function so
            target = self._number((item.item if item.kind == "pointer" else _CODE) if is_pointer else item)
            length = self._lengths.pop(kind.cname + label, None) if is_pointer and not is_array else None
            elements, size = (1, 0) if length is None else _length(kind, length)
            if not is_pointer and (offset % ffi.alignof(item) or ffi.alignof(kind) < ffi.alignof(item)):
                self._unaligned.add(target)
            self._members.append((offset, count, ffi.sizeof(item), elements, size, target, is_pointer))
            self._labels.append((label, is_array, length is not None))
        size, align = (ffi.sizeof(kind), ffi.alignof(kind)) if is_complete(kind) else (1, 1)
        self._types.append((size, align, first, len(self._members) - first))


def _length(kind: Any, length: str | int) -> tuple[int, int]:
    """Return a constant length and 0, or the offset and the size of the field that holds it."""
    if isinstance(length, int):
        return length, 0
    field = dict(kind.fields or ()).get(length) if kind.kind == "struct" else None
    if field is None or field.bitsize >= 0 or not _is_whole_number(field.type):
        raise InvalidArgument(f"{kind.cname!r} has no number {length!r}, needed as a length")
    return field.offset, ffi.sizeof(field.type)


def _is_whole_number(kind: Any) -> bool:
    if kind.kind == "primitive":
        return not any(word in kind.cname for word in ("float", "double", "_Complex"))
    return bool(kind.kind == "enum")


def _parts(kind: Any) -> list[tuple[str, int, Any]]:
    """Return label, offset and type of what a type consists of, as far as it can have pointers."""
    if kind.kind == "struct":
        return [(f".{name}", field.offset, field.type) for name, field in _apart(kind.fields or ())]
    if kind.kind in ("pointer", "function"):
        return [("[0]", 0, kind)]
    return [("", 0, kind)] if kind.kind == "array" else []


def _apart(fields: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that share no byte with another: those of an anonymous union look like any others."""
    ends = [(f.offset, f.offset + (ffi.sizeof(f.type) if is_complete(f.type) else 1)) for _, f in fields]
    for number, (name, field) in enumerate(fields):
        start, end = ends[number]
        others = ends[:number] + ends[number + 1 :]
        if field.bitsize < 0 and not any(low < end and start < high for low, high in others):
            yield name, field


def _has_pointers(kind: Any) -> bool:
    """Whether a type is a pointer, or has one inside."""
    if kind.kind == "array":
        return bool(kind.length) and _has_pointers(kind.item)
    if kind.kind == "struct":
        return any(_has_pointers(field.type) for _, field in kind.fields or ())
    return kind.kind in ("pointer", "function")


def is_complete(kind: Any) -> bool:
    """Whether its size is known: not of `void`, `struct x;` or `int[]`."""
    if kind.kind in ("struct", "union"):
        return kind.fields is not None
    if kind.kind == "array":
        return kind.length is not None and is_complete(kind.item)
    return bool(kind.kind != "void")
