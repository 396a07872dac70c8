"""The pictures of `map`: to scale, in any width, as text and as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from shmhost.commands.views.map import SVG_LETTER, SVG_WIDTH, blocks, map_lines, map_svg
from shmprotocol.wire import messages as m

BASE, SIZE = 0x550000000000, 256 << 30
MIB = 1 << 20


def info(address: int, capacity: int, **values: Any) -> m.RegionInfo:
    record = m.RegionInfo(
        "name", 1, 1, "current", address, capacity, capacity, 0, 0, 0o600, "full", "memfd", 0, 0, 0
    )
    return record._replace(**values)


def test_blocks_are_the_regions_and_what_is_free_between_them() -> None:
    regions = [
        info(BASE + 8 * MIB, 3 * MIB),
        info(BASE, 4096),
        info(BASE + 2 * MIB, 2 * MIB - 4096),
        info(BASE - 4 * MIB, 4096),  # of another window
    ]
    layout = blocks((BASE, SIZE), regions)
    assert [(block.start - BASE, block.size, block.info is None) for block in layout] == [
        (0, 2 * MIB, False),
        (2 * MIB, 2 * MIB, False),
        (4 * MIB, 4 * MIB, True),
        (8 * MIB, 4 * MIB, False),
    ]


def test_map_draws_regions_to_scale_in_any_width() -> None:
    regions = [info(BASE, 2 * MIB, name="small"), info(BASE + 64 * MIB, 30 * MIB, name="x" * 200)]
    for width in (80, 100, 200):
        lines = [line.plain for line in map_lines((BASE, SIZE), regions, width)]
        assert max(map(len, lines)) <= width
        bars = [line.count("█") for line in lines if "gen" in line]
        assert len(bars) == 2
        assert bars[1] > bars[0] >= 1
        assert [line.split()[-1] for line in lines if "free" in line] == ["free"]


def test_picture_cuts_names_that_are_too_long() -> None:
    regions = [info(BASE, 8 * MIB, name="n" * 200), info(BASE + 16 * MIB, 4096, name="short")]
    root = ElementTree.fromstring(map_svg([(BASE, SIZE)], regions))
    name = "{http://www.w3.org/2000/svg}"
    texts = [(float(text.get("x", 0)), text.text or "") for text in root.iter(f"{name}text")]
    assert all(x + len(text) * SVG_LETTER <= SVG_WIDTH for x, text in texts)
    assert any("nn… · gen 1" in text for _, text in texts)
    assert any(text.startswith("short · ") for _, text in texts)
    assert any("n" * 200 in (title.text or "") for title in root.iter(f"{name}title"))
