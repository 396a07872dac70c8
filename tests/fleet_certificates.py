"""Certificates for the links of a fleet, by openssl."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fleet_support import write_plan

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="NOT TESTED: there is no openssl here"
)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def make_ca(folder: Path, name: str) -> tuple[str, str]:
    """Make a certificate that signs others; return the paths of it and of its key."""
    certificate, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    extension = "basicConstraints=critical,CA:TRUE"
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(*new, "-subj", f"/CN={name}", "-addext", extension, "-keyout", key, "-out", certificate)
    return certificate, key


def write_tls(
    folder: Path,
    name: str,
    listen: str,
    connect: Sequence[str],
    ca: tuple[str, str],
    trusted: str,
    **values: object,
) -> str:
    """Write the file of a host with a certificate of a CA, which trusts those of one.

    `listen` and `connect` are such as "127.0.0.1:7447".
    """
    certificate, key, request = (str(folder / f"{name}.{end}") for end in ("pem", "key", "csr"))
    names = folder / f"{name}.ext"
    names.write_text(f"subjectAltName=IP:{listen.rpartition(':')[0]}\nbasicConstraints=CA:FALSE\n")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}")
    openssl(*new, "-keyout", key, "-out", request)
    sign = ("x509", "-req", "-in", request, "-CA", ca[0], "-CAkey", ca[1], "-CAcreateserial", "-days", "2")
    openssl(*sign, "-extfile", str(names), "-out", certificate)
    ends = {"listen": [f"tls/{listen}"], "connect": [f"tls/{other}" for other in connect]}
    plan = write_plan(folder, name, 0, (), **{**ends, "export": [""], "import": [""], **values})
    with open(plan, "a") as file:
        file.write(f'[tls]\nca = "{trusted}"\ncertificate = "{certificate}"\nkey = "{key}"\n')
    return plan
