"""`python -m shmhost` is the command `shmhost`."""

from shmhost.cli import main

main()
