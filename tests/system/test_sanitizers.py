"""The compiled part, built with AddressSanitizer and UBSan, under the tests that use it most."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
TESTS = """memory header buffers slots pinner leaks iovec vectored pointers stores published_pointers
    builder region_dict
    client_arenas arena_bulk arena_waits arena_next arena_ends arena_building arena_races
    arena_storm aio_arenas aio_arena_waits aio_arena_next arena_hosts aio_arena_hosts
    attach late opened leased loose plans
    shortcut descriptors put_frames put put_by_spare small_puts put_records spares filled_puts threads
    arrow arrow_hostile arrow_types tensors as_arrays
    posix_objects posix_names posix_anonymous posix_mappings posix_replacing posix_lifetimes
    posix_protection posix_locks posix_seals posix_write_seals
    growing shared_seal snapshots hostile_snapshots references"""
# Not these: the sanitizer takes terabytes of addresses, which their RLIMIT_AS forbids; does no mlock; and its
# allocator can stay locked in a child that is forked while the thread of a host allocates.
LEFT_OUT = "not limit and not lock and not fork and not child and not descriptor_is_left"
# Nor these: hosts and pools of workers are started in them, whose imports take seconds each.
SLOW = " and not killed_host and not joblib and not executor and not shared_when and not over_a_takeover"
OPTIONS = {
    # The interpreter keeps memory to its end; a test that expects a signal wants that and no report.
    "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0:handle_sigbus=0:handle_abort=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "HYPOTHESIS_PROFILE": "few",  # each example takes several times as long
    "PYTHONMALLOC": "malloc",  # so that the sanitizer sees each buffer of Python's, too
}

pytestmark = [pytest.mark.alone, pytest.mark.sanitizer, pytest.mark.timeout(1300)]


def runtime(name: str) -> str:
    """Return the path of a sanitizer's library; skip when the compiler has none."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    path = subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
    if not os.path.isabs(path):
        pytest.skip(f"gcc has no {name}")
    return path


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build a copy of the packages with sanitizers; return the environment that uses it."""
    folder = tmp_path_factory.mktemp("sanitized")
    for name in ("protocol", "shmclient", "shmhost", "tests"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    preload = " ".join(map(runtime, ("libasan.so", "libubsan.so")))
    build = "import build as b; print(b.ffibuilder.compile(tmpdir=b.FOLDER.parents[1]))"
    package = folder / "protocol" / "shmprotocol" / "native"
    built = subprocess.check_output(
        [sys.executable, "-c", build], cwd=package, env=os.environ | {"SHM_CFLAGS": FLAGS}, text=True
    )
    Path(built.splitlines()[-1]).rename(package / "_native.abi3.so")
    path = os.pathsep.join(map(str, (folder, folder / "protocol")))
    return os.environ | OPTIONS | {"LD_PRELOAD": preload, "PYTHONPATH": path, "FOLDER": str(folder)}


def test_sanitizers_are_in_force(sanitized: dict[str, str]) -> None:
    """They would say so if a buffer were read beyond its end."""
    program = (
        "import shmprotocol; print(shmprotocol.__file__, flush=True); "
        "from shmprotocol.native.binding import ffi, lib; "
        "views = ffi.new('Py_buffer[]', 1); lib.shm_buffers_read_only(views, 100)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=sanitized,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.stdout.startswith(sanitized["FOLDER"])
    assert "heap-buffer-overflow" in result.stderr
    assert "shm_buffers_read_only" in result.stderr


def test_tests_pass_with_sanitizers(sanitized: dict[str, str]) -> None:
    folder, modules = Path(sanitized["FOLDER"]), TESTS.split()
    matches = [folder.glob(f"tests/**/test_{module}.py") for module in modules]
    files = [path for paths in matches for path in paths if path.parent.name != "model"]
    assert len(files) == len(modules), f"a file is missing: {files}"
    options = ["-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", "--timeout", "400"]
    with open(folder / "output.txt", "w", encoding="utf-8") as output:
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *options, "-k", LEFT_OUT + SLOW, *files],
            cwd=folder,
            env=sanitized,
            stdout=output,
            stderr=output,
            timeout=1200,
            check=False,
        ).returncode
    text = (folder / "output.txt").read_text("utf-8")
    assert code == 0, text[-6000:]
    assert " passed" in text
