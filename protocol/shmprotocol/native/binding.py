"""The only import of the compiled module: `ffi` and `lib`, or an error that says how to build them."""

try:
    from shmprotocol.native._native import ffi, lib
except ImportError as error:
    raise ImportError(
        f"the compiled part of shmprotocol is missing or broken ({error}): install the wheel, or build it "
        "from source with `pip install .`, which needs a C compiler"
    ) from error

__all__ = ["ffi", "lib"]
