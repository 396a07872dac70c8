"""Fixtures of the commands' tests: a made-up tree of /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from doctor_support import write


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root as that of a good machine without cgroups."""
    return write(
        tmp_path / "root",
        proc__self__cgroup="0::/\n",
        proc__self__maps="00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/prog\n",
        proc__self__statm="1000 500 100 1 0 200 0\n",
        proc__meminfo="MemTotal:       16777216 kB\nMemFree: 1 kB\n",
        proc__sys__vm__memfd_noexec="0\n",
        proc__sys__vm__max_map_count="65530\n",
        proc__sys__vm__overcommit_memory="0\n",
        sys__kernel__mm__transparent_hugepage__shmem_enabled="always within_size [advise] never deny force\n",
    )
