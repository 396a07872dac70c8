"""The only import of the compiled module: `ffi` and `lib`, or an error that says how to build them."""

try:
    from shmprotocol.native._native import ffi, lib
except ImportError as _error:
    raise ImportError(
        f"the compiled part of shmprotocol is missing or broken ({_error}): install the wheel, or build it "
        "from source with `pip install .`, which needs a C compiler"
    ) from _error

__all__ = ["ffi", "lib"]
