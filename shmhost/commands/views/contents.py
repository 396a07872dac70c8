"""The content of a region in words: from its metadata, which its publisher wrote and nobody has checked.

Knows the formats that have a shape; of others it shows the name.
"""

from __future__ import annotations

import msgpack

from shmhost.commands.text import printable

TEXT_MAX = 200  # characters of a description that is shown
DEPTH_MAX = 40  # structures nest 16 deep, with two levels each
LENGTHS_MAX = 64  # of a shape
_PLACES = ("format", "offset", "size", "index", "items")  # where things lie says nothing to people


def unpack(packed: bytes) -> dict[str, object] | None:
    """Return the map in a region's metadata as JSON has it, {} for none; None if it is not a map."""
    if not packed:
        return {}
    try:
        value = msgpack.unpackb(packed, strict_map_key=True, max_ext_len=0)
    except Exception:  # of any class: the bytes are the cause
        return None
    return {str(key): _plain(each, 1) for key, each in value.items()} if isinstance(value, dict) else None


def _plain(value: object, depth: int) -> object:
    if depth > DEPTH_MAX:
        return "..."
    if isinstance(value, dict):
        return {str(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, depth + 1) for each in value]
    return value if value is None or isinstance(value, str | int) else repr(value)  # JSON has no NaN


def content_of(metadata: dict[str, object] | None) -> str:
    """Return a line for people: `ndarray <f4, shape (3, 4), order C`."""
    if metadata is None:
        return "not readable by this user, or not described as it should be"
    if not metadata:
        return "bytes"
    parts = [f"{key} {_text(value)}" for key, value in metadata.items() if key not in (*_PLACES, "dtype")]
    kind = _text(metadata.get("format", "of no format"))
    if "dtype" in metadata:
        kind = f"{kind} {_text(metadata['dtype'])}"
    shown = printable(", ".join([kind, *parts]))
    return shown if len(shown) <= TEXT_MAX else f"{shown[: TEXT_MAX - 1]}…"


def _text(value: object) -> str:
    """Return a value as NumPy shows it: a shape as a tuple, a structure by its fields."""
    if isinstance(value, list):
        return f"({', '.join(map(_text, value[:LENGTHS_MAX]))}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict) and isinstance(value.get("fields"), list):
        return "{" + ", ".join(map(_field, value["fields"][:LENGTHS_MAX])) + "}"
    return str(value)[:TEXT_MAX]


def _field(field: object) -> str:
    if not isinstance(field, dict):
        return _text(field)
    shape = f" {_text(field['shape'])}" if "shape" in field else ""
    return f"{_text(field.get('name', ''))} {_text(field.get('dtype', ''))}{shape}"
