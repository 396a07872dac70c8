"""Cells of a notebook that are run again, as they are: each time they work, or say why not.

A notebook keeps much: the variables of all cells, the last results, the last traceback with its frames.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from misuse import nothing_left, run_script
from support import WatchedHost

SHELLS = {
    "interpreter": """
import code
shell = code.InteractiveInterpreter()
def run(cell):
    shell.runcode(compile(cell, "<cell>", "exec"))
""",
    "IPython": """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
shell.history_manager.enabled = False
def run(cell):
    shell.run_cell(cell, store_history=True)
""",
}
FIRST = "import threading, sys; import numpy as np; import shmclient, shmhost\npath = sys.argv[1]\n"

# A cell, and what it prints when it runs again in the same notebook as the first time.
CELLS = {
    "connect without close": ("shm = shmclient.connect(path); print(shm.list())", "[]"),
    "put of one name": (
        'shm = shmclient.connect(path); shm.put("a", np.arange(3)); a = shm.get("a"); print(a)',
        "[0 1 2]",
    ),
    "put of a name whose value is still held": (
        """
shm = shmclient.connect(path)
values = globals().get("values", [])
shm.put("a", np.arange(3)); values.append(shm.get("a")); print(values[0])
""",
        "[0 1 2]",
    ),
    "a region filled through an array that stays": (
        """
shm = shmclient.connect(path)
with shm.create("a", 4096) as builder:
    array = np.frombuffer(builder.data, "f4"); array[:] = 1
print(array[0])
""",
        "1.0",
    ),
    "a block of create that fails with its array alive": (
        """
shm = shmclient.connect(path)
with shm.create("a", 4096) as builder:
    array = np.frombuffer(builder.data, "f4"); print("filled"); array[5000] = 1
""",
        "filled",
    ),
    "a host without close": (
        'host = shmhost.start(); own = shmclient.connect(host.socket_path); own.put("a", b"1"); '
        "print(len(own.list()))",
        "1",
    ),
    "a host in a block that fails": ("with shmhost.embedded() as host: print(1); 1 / 0", "1"),
    "a watch in a thread": (
        """
shm = shmclient.connect(path); changes = shm.watch("w")
def follow(changes=changes):
    for change in changes: pass
thread = threading.Thread(target=follow, daemon=True); thread.start()
print(thread.is_alive())
""",
        "True",
    ),
    "a watch in a loop that is broken off": (
        """
shm = shmclient.connect(path)
changes = shm.watch("w"); shm.put("w", b"1")
for change in changes: print(change.kind); raise KeyboardInterrupt
""",
        "published",
    ),
    "pins without unpin": (
        "pinner = shmclient.Pinner(); pin = pinner.pin(bytearray(8)); print(pin.size)",
        "8",
    ),
}


def cells(cell: str, shell: str) -> str:
    runs = [f"run({textwrap.dedent(text)!r})" for text in (FIRST, cell, cell, cell)]
    return "import sys\n" + SHELLS[shell] + "\n".join(runs)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("cell", "out"), CELLS.values(), ids=CELLS.keys())
def test_cell_runs_again(cell: str, out: str, shell: str, host: WatchedHost, tmp_path: Path) -> None:
    folders = {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": "", "IPYTHONDIR": str(tmp_path / "ipython")}
    with nothing_left(host):
        code, said, err = run_script(cells(cell, shell), host.socket_path, environ=folders)
    assert not list(tmp_path.glob("shmhost-*"))
    lines = said.splitlines()
    assert code == 0
    assert lines.count(out) == 3, (said, err)
    assert "Exception ignored" not in err
    assert "RegionBusy" not in said + err
