"""Four workers fill one array in place: only the name of its memory goes to them."""

import multiprocessing

import numpy as np

from shmclient.shared_memory import SharedMemory

ROWS, COLUMNS = 4, 250_000


def fill(name: str, row: int) -> None:
    """Fill a row of the array in the segment with this name."""
    segment = SharedMemory(name)
    array = np.ndarray((ROWS, COLUMNS), "f8", segment.buf)
    array[row] = row
    del array
    segment.close()


def main() -> None:
    """Make the segment, have it filled, and add it up."""
    segment = SharedMemory(create=True, size=ROWS * COLUMNS * 8)
    with multiprocessing.Pool(ROWS) as pool:
        pool.starmap(fill, [(segment.name, row) for row in range(ROWS)])
    array = np.ndarray((ROWS, COLUMNS), "f8", segment.buf)
    print(f"{array.sum():,.0f}")
    del array
    segment.close()
    segment.unlink()


if __name__ == "__main__":
    main()
