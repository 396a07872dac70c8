"""`python -m shmprotocol --include` prints the folder of `shm_abi.h`, for a compiler's `-I`."""

import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Print the include folder; any other argument prints the usage, with exit code 2."""
    if arguments != ["--include"]:
        print("usage: python -m shmprotocol --include", file=sys.stderr)
        return 2
    print(Path(__file__).resolve().parent / "abi")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
