"""The C reader of Arrow data, compiled as strictly as its users may, on regions that Python has put."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import shmclient
from native_support import ROOT, STRICT, WAYS

pa = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="module", params=WAYS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "reader"
    source = ROOT / "examples" / "arrow_reader.c"
    subprocess.run([*WAYS[request.param], *STRICT, source, "-o", path], check=True)
    return path


def run(program: Path, region: shmclient.Region) -> tuple[int, list[str], str]:
    descriptor = region.fileno()
    result = subprocess.run(
        [program, "t"],
        pass_fds=[descriptor],
        env=os.environ | {"SHM_REGIONS": f"{descriptor} t"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    return result.returncode, result.stdout.splitlines(), result.stderr


def test_reader_follows_the_structs_and_owns_copies(program: Path, shm: shmclient.Client) -> None:
    table = pa.table(
        {"id": range(1000), "name": [f"name {n}" for n in range(1000)], "l": [[n] for n in range(1000)]}
    )
    batches = pa.Table.from_batches(table.slice(3).to_batches(max_chunksize=100))
    lines = ["id: l", f"sum {sum(range(3, 1000))}", "name: u", "l: +l", "997 rows", "unmapped"]
    assert run(program, shm.put("t", batches)) == (0, lines, "")


def test_reader_of_a_table_without_batches_ends(program: Path, shm: shmclient.Client) -> None:
    table = pa.Table.from_batches([], pa.schema({"x": pa.int64()}))
    assert run(program, shm.put("t", table)) == (0, ["x: l", "sum 0", "unmapped", "0 rows"], "")


def test_reader_refuses_what_is_no_table(program: Path, shm: shmclient.Client) -> None:
    code, lines, error = run(program, shm.put("t", b"bytes" * 100))
    assert (code, lines) == (3, [])
    assert "cannot read t" in error
