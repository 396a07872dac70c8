"""`python -m shmclient` is the command `shmclient`."""

from shmclient.cli import main

main()
