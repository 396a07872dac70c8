"""Who may import whom, read from the source; and what `import shmclient` loads."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import ForwardRef

import pytest

from shmprotocol.wire.codec import TAG_OF

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "shmprotocol": ROOT / "protocol" / "shmprotocol",
    "shmclient": ROOT / "shmclient",
    "shmhost": ROOT / "shmhost",
}
# The rooms of each package, from the ground up: a room imports only from rooms before it.
ROOMS = {
    "shmprotocol": ["errors", "tuples", "native", "abi", "kernel", "wire", "cli", "options", "__main__"],
    "shmclient": [
        *("_process", "posix", "_pointers", "_codecs", "_connection", "_regions", "_arenas", "_pins"),
        *("_drivers", "client", "aio", "_shared", "shared_memory", "_commands", "__main__"),
    ],
    "shmhost": ["core", "machine", "settings", "fleet", "serving", "commands", "cli", "testing", "__main__"],
}
# What waits or looks at the world: not for the pure modules.
WAITING = {"socket", "os", "time", "threading", "logging", "asyncio", "anyio", "select", "subprocess"}


def modules(package: str) -> list[Path]:
    """Return the modules of a package; there must be some, or the test would prove nothing."""
    paths = sorted(FOLDERS[package].rglob("*.py"))
    assert paths, f"no modules in {FOLDERS[package]}"
    return paths


def imported(module: Path) -> set[str]:
    """Return the top-level names that a module imports anywhere, `shmhost.demo` counted as `shmhost`."""
    return {name.split(".")[0] for name in _import_names(ast.parse(module.read_text("utf-8")))}


def _import_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield node.module or ""


def offenders(package: str, forbidden: set[str], *, but: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """Return the modules of a package that import what they must not, except below some subfolders."""
    folder = FOLDERS[package]
    return {
        str(module.relative_to(folder)): wrong
        for module in modules(package)
        if (wrong := imported(module) & forbidden) and not str(module.relative_to(folder)).startswith(but)
    }


def test_imports_are_seen_when_they_are_inside_of_a_function() -> None:
    tree = ast.parse("import a.b\ndef f():\n    from c.d import e\n    import g as h")
    assert set(_import_names(tree)) == {"a.b", "c.d", "g"}


def test_shmprotocol_imports_neither_client_nor_host() -> None:
    assert offenders("shmprotocol", {"shmclient", "shmhost"}) == {}


def test_shmclient_never_imports_the_host() -> None:
    assert offenders("shmclient", {"shmhost"}) == {}


def test_shmhost_imports_the_client_in_programs_of_their_own_and_for_tests_alone() -> None:
    programs = ("commands/demo", "fleet/courier.py")
    assert offenders("shmhost", {"shmclient"}, but=(*programs, "testing/")) == {}


@pytest.mark.parametrize("name", ["wire/connection.py", "wire/messages.py", "wire/records.py", "errors.py"])
def test_module_imports_nothing_that_waits_when_it_is_pure(name: str) -> None:
    assert imported(FOLDERS["shmprotocol"] / name) & WAITING == set()


def test_core_of_the_host_imports_nothing_that_waits() -> None:
    """Only the memory objects call the kernel, in threads that the server starts."""
    modules = (FOLDERS["shmhost"] / "core").glob("*.py")
    waiting = {module.name: wrong for module in modules if (wrong := imported(module) & WAITING)}
    assert waiting == {"objects.py": {"os"}, "apart.py": {"os"}}


@pytest.mark.parametrize("name", ["plan", "claims", "members", "messages", "names"])
def test_fleet_module_imports_nothing_that_waits_when_it_is_pure(name: str) -> None:
    assert imported(FOLDERS["shmhost"] / "fleet" / f"{name}.py") & WAITING == set()


def test_zenoh_is_used_by_one_module_and_loaded_only_with_a_fleet() -> None:
    assert users("zenoh") == {"zenoh_settings.py"}
    script = "import shmhost.cli, shmhost.serving.server, sys; assert 'zenoh' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("_connection/exchange.py", set()),
        ("_drivers/following.py", set()),
        ("_drivers/operations.py", set()),
        ("_drivers/transfer.py", {"os"}),
    ],
)
def test_client_module_imports_nothing_that_waits_when_it_is_pure(name: str, allowed: set[str]) -> None:
    """Transfers write to memory files, which does not wait."""
    assert imported(FOLDERS["shmclient"] / name) & WAITING == allowed


def users(name: str) -> set[str]:
    """Return the modules that import a module, without those of `shmclient.posix`, as file names."""
    return {
        module.name
        for package in FOLDERS
        for module in modules(package)
        if module.parent.name != "posix" and name in set(_import_names(ast.parse(module.read_text("utf-8"))))
    }


@pytest.mark.parametrize("package", ["shmprotocol", "shmclient"])
def test_named_tuples_are_those_that_are_made_fast(package: str) -> None:
    slow = [
        str(module.relative_to(FOLDERS[package]))
        for module in modules(package)
        if module.name != "tuples.py"
        and "typing.NamedTuple" in _full_names(ast.parse(module.read_text("utf-8")))
    ]
    assert slow == [], "import NamedTuple from shmprotocol.tuples: the client's import takes longer otherwise"


def _full_names(tree: ast.AST) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{alias.name}" for node in imports for alias in node.names}


def room_of(package: str, module: Path) -> str:
    """Return the folder, or the module itself, that lies directly in the package."""
    return module.relative_to(FOLDERS[package]).parts[0].removesuffix(".py")


def rooms_imported(package: str, module: Path) -> set[str]:
    """Return the rooms of its own package that a module imports from."""
    tree = ast.parse(module.read_text("utf-8"))
    names = [
        *_import_names(tree),
        *(f"{n.module}.{a.name}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names),
    ]
    parts = [name.split(".") for name in names if name.startswith(f"{package}.")]
    return {part[1] for part in parts if part[1] in ROOMS[package]}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_from_rooms_below(package: str) -> None:
    order = ROOMS[package]
    assert {room_of(package, module) for module in modules(package)} == {*order, "__init__"}
    upward = [
        (str(module.relative_to(FOLDERS[package])), room)
        for module in modules(package)
        if (own := room_of(package, module)) != "__init__"
        for room in rooms_imported(package, module)
        if order.index(room) > order.index(own)
    ]
    assert upward == []


def test_every_package_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {
        path.parent.relative_to(above.parent) for above in FOLDERS.values() for path in above.rglob("*.py")
    }
    packages = {".".join(folder.parts) for folder in folders}
    assert packages - set(project["tool"]["setuptools"]["packages"]) == set()


def test_binary_is_wrapped_by_one_module() -> None:
    assert users("shmprotocol.native._native") == {"binding.py"}


def test_c_is_called_by_a_few_modules_alone() -> None:
    pinning = {"buffers.py", "slots.py", "plan.py", "iovec.py", "pinner.py"}
    memory = {"header.py", "address_space.py", "board.py", "builtins.py"}
    assert users("shmprotocol.native.binding") == memory | pinning


def test_shmclient_loads_no_async_numpy_or_terminal_library_when_it_is_imported() -> None:
    script = "import shmclient, sys; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    unwanted = {
        "_hashlib",
        "anyio",
        "asyncio",
        "trio",
        "numpy",
        "pyarrow",
        "rich",
        "click",
        "rich_click",
        "shmhost",
    }
    assert unwanted & set(loaded) == set()
    assert "msgpack" in loaded


LATER = {
    "shmclient": {
        *("posix", "aio", "shared_memory", "_shared", "_commands", "_pins"),
        *("_codecs.arrow_source", "_codecs.arrow_value", "_codecs.dlpack_source", "_codecs.safetensors"),
        *("_arenas.owner", "_arenas.building", "_regions.builder", "_regions.info", "_regions.snapshots"),
        *("_drivers.arena_views", "_drivers.crossing", "_drivers.following", "_drivers.references"),
        *(
            "_drivers.snapshots",
            "_drivers.stream",
            "_drivers.streams",
            "_drivers.tensor_files",
            "_drivers.values",
        ),
    },
    "shmprotocol": {"abi.snapshot", "cli", "options"},
}


def test_shmclient_loads_what_few_programs_use_only_when_they_use_it() -> None:
    """The import takes some 38 ms, of which each small module is 0.3."""
    script = "import shmclient, sys; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    loaded = set(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    )
    for package, names in LATER.items():
        for name in names:
            assert any((FOLDERS[package] / name.replace(".", "/")).parent.glob(f"{name.split('.')[-1]}*")), (
                name
            )
            assert f"{package}.{name}" not in loaded


def test_types_in_messages_are_no_texts_which_would_be_compiled_at_the_import() -> None:
    for cls in TAG_OF:
        assert not {type(hint) for hint in cls.__annotations__.values()} & {str, ForwardRef}, cls
