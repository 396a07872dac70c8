"""What pyproject.toml cannot say: cffi's keyword, the stable ABI, and links that only a release knows."""

import os
import re
import sysconfig
from pathlib import Path

from setuptools import setup

URL = os.environ.get("SHMHOST_URL", "").rstrip("/")  # of the repository, as https://example.org/us/shmhost
REF = os.environ.get("SHMHOST_REF", "main")  # the tag or branch that the links lead to


def description() -> str:
    """Return the README; with $SHMHOST_URL its links and pictures are absolute, as an index needs them."""
    text = Path("README.md").read_text("utf-8")
    if not URL:
        return text
    pictures = re.sub(r"!\[([^\]]*)\]\((?!\w+://)([^)]+)\)", rf"![\1]({URL}/raw/{REF}/\2)", text)
    return re.sub(r"\]\((?!\w+://|#)([^)]+)\)", rf"]({URL}/blob/{REF}/\1)", pictures)


def urls() -> dict[str, str]:
    """Return the links beside the description; none if it is not known where the repository lies."""
    pages = {"Documentation": "docs", "Changelog": "CHANGELOG.md"}
    return {"Source": URL} | {name: f"{URL}/blob/{REF}/{path}" for name, path in pages.items()} if URL else {}


# Free-threaded CPython has no stable ABI before 3.15, and setuptools refuses to name one there.
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    project_urls=urls(),
    cffi_modules=["protocol/shmprotocol/native/build.py:ffibuilder"],
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
