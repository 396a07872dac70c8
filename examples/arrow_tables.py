"""Share one table with worker processes: none of them copies it. Needs pyarrow."""

from __future__ import annotations

import multiprocessing

import pyarrow as pa
import pyarrow.compute as pc

import shmclient
import shmhost

COUNT = 1_000_000


def total(socket_path: str, kind: int) -> tuple[int, int]:
    """Return the sum of a kind of row, and where the column lies in this process."""
    with shmclient.connect(socket_path) as shm:
        table = pa.table(shm.get("trades"))  # its buffers are the region's
        rows = table.filter(pc.equal(table["kind"], kind))
        return pc.sum(rows["price"]).as_py(), table["price"].chunk(0).buffers()[1].address


def main() -> None:
    """Put a table; have four workers sum it up, each a part."""
    numbers = pa.array(range(COUNT))
    kinds = pa.array([number % 4 for number in range(COUNT)], pa.int8())
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        shm.put("trades", pa.table({"price": numbers, "kind": kinds}))
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            results = pool.starmap(total, [(host.socket_path, kind) for kind in range(4)])
    assert sum(amount for amount, _ in results) == COUNT * (COUNT - 1) // 2
    print(f"4 workers read {COUNT} rows at {len({address for _, address in results})} address")


if __name__ == "__main__":
    main()
