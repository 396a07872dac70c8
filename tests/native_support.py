"""The ways in which the native readers of the specification are compiled, with every warning as an error."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1] / "protocol"
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{ROOT / 'shmprotocol' / 'abi'}"]
WAYS = {
    "c11": ["cc", "-std=c11", "-O2"],
    "c++17": ["c++", "-x", "c++", "-std=c++17", "-O2"],
    "sanitized": ["cc", "-std=c11", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
