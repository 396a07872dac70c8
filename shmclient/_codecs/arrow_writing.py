"""The image of a value of Arrow's: a table of its own, a schema and batches; see `shm_arrow_layout.h`."""

from __future__ import annotations

from shmclient._codecs.arrow_image import Image
from shmclient._codecs.arrow_slicing import ARRAY_WORDS, Slicer
from shmclient._codecs.arrow_source import Schema, Source
from shmclient._codecs.arrow_value import ONE
from shmclient._codecs.layout import Layout

TABLE_WORDS, SCHEMA_WORDS = 8, 9  # of struct shm_arrow_table and ArrowSchema
MAGIC = int.from_bytes(b"SHMARRW\0", "little")
VERSION = 1


def write_image(source: Source, layout: Layout) -> tuple[int, int]:
    """Add a value to a layout: its structs, and what they show of the buffers. Returns offset and size."""
    layout.keepers.append(source.keeper)
    image = Image()
    table = image.allocate(TABLE_WORDS)
    schema = image.allocate(SCHEMA_WORDS)
    _write_schema(image, schema, source.schema)
    batches = image.allocate(len(source.batches) * ARRAY_WORDS)
    slicer = Slicer(image)
    length = 0
    for number, address in enumerate(source.batches):
        length += slicer.whole(batches + number * ARRAY_WORDS, source.schema, address)
    image.set(table, MAGIC, VERSION | (ONE if source.is_one else 0) << 32)
    image.point(table + 2, table)
    image.point(table + 3, schema)
    image.point(table + 4, batches if source.batches else table)
    image.set(table + 5, len(source.batches), length)
    offset, size = image.place(layout)
    layout.root = offset, 8 * TABLE_WORDS
    return offset, size


def _write_schema(image: Image, at: int, schema: Schema) -> None:
    for word, text in ((0, schema.format + b"\0"), (1, schema.name), (2, schema.metadata)):
        if text is not None:
            image.text(at + word, text + b"\0" if word == 1 else text)
    image.set(at + 3, schema.flags, len(schema.children))
    if schema.children:
        first = image.children(at + 5, len(schema.children), SCHEMA_WORDS)
        for number, child in enumerate(schema.children):
            _write_schema(image, first + number * SCHEMA_WORDS, child)
    if schema.dictionary is not None:
        dictionary = image.allocate(SCHEMA_WORDS)
        image.point(at + 6, dictionary)
        _write_schema(image, dictionary, schema.dictionary)
