"""The command `shmhost`, also as `python -m shmhost`. Its libraries are those of the extra `cli`."""

from shmprotocol.cli import extra_needed


def main() -> None:
    """Run the command; without the extra `cli`, one line says how to install it."""
    with extra_needed("shmhost"):
        from shmhost.cli import main as run
    run()


if __name__ == "__main__":
    main()
