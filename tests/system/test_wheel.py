"""The wheel: one for every Python from 3.11 on, with all that its users need, and no compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = (".venv", "build", "shmhost.egg-info", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")
USE = """
import shmclient, shmhost
with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
    shm.put("x", b"from a wheel")
    with shm.arena("arena", 1 << 20) as arena:
        arena["x"] = shm.get("x")
        print(bytes(shm.get("arena/x")).decode())
"""


def sources() -> list[str]:
    """Return the files of this checkout, or of this source distribution, without what was built in it."""
    if (ROOT / ".git").exists():
        tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0")
        return [name for name in tracked if name and (ROOT / name).is_file()]
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [str(path) for path in paths if path.suffix not in (".so", ".pyc") and path.parts[0] not in BUILT]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name in sources():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, copy]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, as a user has it."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", folder]
    subprocess.run(command, cwd=copy, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def test_source_distribution_has_every_file(unpacked: Path) -> None:
    assert [name for name in sources() if not (unpacked / name).exists()] == []


@pytest.mark.timeout(300)
def test_tests_of_the_source_distribution_run(unpacked: Path) -> None:
    """A part of them: every file is there, so the rest is what is run here anyway."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    part = ["tests/protocol/test_names.py", "tests/commands/test_extra.py", "tests/system/test_parity.py"]
    subprocess.run([*command, *part], cwd=unpacked, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="it has no stable ABI")
@pytest.mark.timeout(180)
def test_wheel_is_of_the_stable_abi(wheel: Path) -> None:
    assert "-cp311-abi3-linux" in wheel.name


@pytest.mark.timeout(180)
def test_wheel_holds_header_types_and_examples(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    requirements = {
        "shmprotocol/abi/shm_abi.h",
        "shmprotocol/abi/shm_board.h",
        "shmprotocol/abi/shm_arrow.h",
        "shmprotocol/abi/shm_dict.h",
        "shmprotocol/py.typed",
        "shmclient/py.typed",
        "shmhost/py.typed",
    }
    assert requirements <= names
    assert any(name.startswith("shmprotocol/native/_native") and name.endswith(".so") for name in names)
    assert not any(name.startswith("tests/") for name in names)
    pages = {name.rpartition("/")[2] for name in names if "/data/share/man/man1/" in name}
    assert pages == {path.name for path in (ROOT / "packaging" / "man").glob("*.1")} > {"shmhost.1"}


def metadata(copy: Path, folder: Path, **environ: str) -> Message:
    """Return what an index shows of a source distribution."""
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", folder]
    subprocess.run(command, cwd=copy, check=True, stdout=subprocess.DEVNULL, env=os.environ | environ)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        name = next(name for name in files.getnames() if name.count("/") == 1 and name.endswith("PKG-INFO"))
        content = files.extractfile(name)
        assert content is not None
        return message_from_bytes(content.read())


LINK = re.compile(r"\]\(([^)#]+)")


def test_links_of_the_package_are_absolute_where_its_url_is_given(copy: Path, tmp_path: Path) -> None:
    url = "https://example.org/us/shmhost"
    package = metadata(copy, tmp_path, SHMHOST_URL=f"{url}/", SHMHOST_REF="v1")
    assert package.get_all("Project-URL") == [
        f"Source, {url}",
        f"Documentation, {url}/blob/v1/docs",
        f"Changelog, {url}/blob/v1/CHANGELOG.md",
    ]
    description = package.get_payload()
    assert f"]({url}/raw/v1/docs/one-address.svg)" in description
    links = LINK.findall(description)
    assert f"{url}/blob/v1/LICENSE" in links
    assert [link for link in links if not link.startswith("https://")] == []


def test_package_has_the_readme_as_it_is_without_a_url(copy: Path, tmp_path: Path) -> None:
    package = metadata(copy, tmp_path, SHMHOST_URL="")
    assert package.get_all("Project-URL") is None
    assert package.get_payload().strip() == (ROOT / "README.md").read_text("utf-8").strip()


@pytest.mark.timeout(180)
def test_wheel_holds_every_module_and_header(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {"shmclient": ROOT, "shmhost": ROOT, "shmprotocol": ROOT / "protocol"}
    sources = [
        str(path.relative_to(above))
        for package, above in folders.items()
        for pattern in ("*.py", "*.h")
        for path in (above / package).rglob(pattern)
    ]
    assert len(sources) > 100
    assert [path for path in sources if path not in names] == []


@pytest.mark.timeout(300)
def test_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    assert subprocess.check_output([python, "-c", USE], cwd=tmp_path, text=True) == "from a wheel\n"
    for command in ("shmhost", "shmclient"):
        script = [python.parent / command, "--version"]
        bare = subprocess.run(script, capture_output=True, text=True)
        assert (bare.returncode, bare.stdout) == (1, "")
        assert bare.stderr == f"{command}: the commands need rich_click: pip install 'shmhost[cli]'\n"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[cli]"], check=True)
    for command in ("shmhost", "shmclient"):
        for way in ([python.parent / command], [python, "-m", command]):
            assert "version" in subprocess.check_output([*way, "--version"], cwd=tmp_path, text=True)
    checked = tmp_path / "typed.py"
    checked.write_text("import shmclient, shmhost\nreveal_type(shmclient.connect())\n")
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir", tmp_path, checked]
    assert '"shmclient.client.Client"' in subprocess.check_output(command, cwd=tmp_path, text=True)
