"""Native readers, as source: `python -c "import shmprotocol.examples as e; print(e.__path__[0])"`."""
