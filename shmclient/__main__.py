"""`python -m shmclient` is the command `shmclient`."""

from shmclient._commands.cli import main

main()
