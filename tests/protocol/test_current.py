"""The base of what stands for a region: it looks at a line of the board, in memory of its own here."""

import gc
import weakref

import pytest

from shmprotocol.native.binding import ffi
from shmprotocol.native.builtins import Current

OWNER, OPEN, LINE = 0, 16, 64  # bytes


class Asks(Current):
    def _ask_current(self) -> bool:
        return "asked"  # type: ignore[return-value]


class Memory:
    """Words at an address, as a board has them."""

    def __init__(self) -> None:
        self.words = ffi.new("uint64_t[16]")
        self.address = int(ffi.cast("uintptr_t", self.words))

    def follow(self, current: Current, region: int) -> None:
        self.words[OPEN // 8] = 1
        current._follow_line(self, self.address + OPEN, self.address + OWNER, self.address + LINE, region, 3)


def test_a_line_says_whether_its_region_is_current() -> None:
    memory, current = Memory(), Asks()
    memory.words[0], memory.words[8], memory.words[10] = 1, 2**64 - 1, 3 << 32
    memory.follow(current, 2**64 - 1)
    assert current._is_granted() is True
    assert current.is_current() is True
    memory.words[10] = 4 << 32
    assert current._is_granted() is False
    assert current.is_current() is True
    memory.words[8] = 0
    assert current._is_granted() is False
    assert current.is_current() is False


@pytest.mark.parametrize("owner", [0, 0x40000000, 0x80000000, 1 << 32])
def test_a_board_without_an_owner_says_nothing(owner: int) -> None:
    memory, current = Memory(), Asks()
    memory.words[0], memory.words[8] = owner, 7  # the number of a thread is in the low 30 bits
    memory.follow(current, 7)
    assert current._is_granted() is None
    assert current.is_current() == "asked"


def test_without_a_line_the_host_is_asked() -> None:
    assert Asks()._is_granted() is None
    assert Asks().is_current() == "asked"
    with pytest.raises(AttributeError):
        Current().is_current()


def test_the_memory_of_a_board_lives_as_long_as_who_is_granteds_at_it() -> None:
    memory, current = Memory(), Asks()
    memory.follow(current, 7)
    current.myself = current  # type: ignore[attr-defined]
    alive = weakref.ref(memory)
    del memory
    assert alive() is not None
    del current
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    "arguments",
    [(), (None, 1, 2, 3, 4), (None, -1, 2, 3, 4, 5), (None, 1, 2**64, 3, 4, 5), (None, 1, 2, 3, 4, "5")],
)
def test_wrong_arguments_change_nothing(arguments: tuple[object, ...]) -> None:
    current = Asks()
    with pytest.raises((TypeError, OverflowError)):
        current._follow_line(*arguments)  # type: ignore[arg-type]
    assert current._is_granted() is None


def test_a_client_that_is_closed_is_asked() -> None:
    memory, current = Memory(), Asks()
    memory.words[0], memory.words[8] = 1, 7
    memory.follow(current, 7)
    assert current._is_granted() is not None
    memory.words[OPEN // 8] = 0
    assert current._is_granted() is None
    assert current.is_current() == "asked"
