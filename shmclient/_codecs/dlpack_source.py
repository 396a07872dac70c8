"""The tensor of a producer of DLPack, read by address: believed, as all consumers believe it.

The structs are those of DLPack 1.0 (`dlpack.h`), in a capsule of the array API standard: with a version, or
of the older kind. A capsule that nobody consumes frees its tensor when it is collected.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from shmprotocol.kernel.address_space import bytes_keeping, memory_at
from shmprotocol.native.builtins import dlpack_address
from shmprotocol.tuples import NamedTuple

MAJOR = 1  # the layout of all versions from 1.0 on
PADDED = 4  # DLPACK_FLAG_BITMASK_IS_SUBBYTE_TYPE_PADDED
_VERSION = struct.Struct("=IIQQQ")  # major, minor, context, deleter, flags; the tensor follows
_TENSOR = struct.Struct("=QiiiBBHQQQ")
# Devices whose memory a CPU can read: kDLCPU, and the pinned memory of CUDA and of ROCm.
_READABLE = frozenset((1, 3, 11))
_DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 13: "CUDA managed", 14: "oneAPI"}
_REFUSALS = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)  # of a producer
_SIGNED, _UNSIGNED, _FLOAT, _HANDLE, _BFLOAT, _COMPLEX, _BOOL = range(7)
_NUMBERS = {_SIGNED: "i", _UNSIGNED: "u", _FLOAT: "f", _COMPLEX: "c", _BOOL: "b"}
_SIZES = {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16), "b": (1,)}
# Types of ml_dtypes: the code and the bits in DLPack, and the name there.
_SMALL = {(_BFLOAT, 16): "bfloat16", (_COMPLEX, 32): "complex32"}
_SMALL |= {(_SIGNED, bits): f"int{bits}" for bits in range(1, 8)}
_SMALL |= {(_UNSIGNED, bits): f"uint{bits}" for bits in range(1, 8)}
# From kDLFloat8_e3m4 on.
_EIGHTS = ("e3m4", "e4m3", "e4m3b11fnuz", "e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")
_SMALL |= {(code, 8): f"float8_{name}" for code, name in enumerate(_EIGHTS, 7)}
_SMALL |= {(15, 6): "float6_e2m3fn", (16, 6): "float6_e3m2fn", (17, 4): "float4_e2m1fn"}


class Tensor(NamedTuple):
    """A tensor of a producer, kept by its capsule. Strides are bytes; `dtype` is a name of our metadata."""

    address: int
    dtype: str
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    capsule: object

    @property
    def nbytes(self) -> int:
        """The bytes of its items."""
        return math.prod(self.shape) * self.itemsize

    def is_compact(self, order: str) -> bool:
        """Whether its items lie side by side, in C order or in F order."""
        lengths = range(len(self.shape)) if order == "F" else reversed(range(len(self.shape)))
        step = self.itemsize
        for number in lengths:
            if self.shape[number] > 1 and self.strides[number] != step:
                return False
            step *= self.shape[number]
        return True

    def content(self) -> tuple[str, memoryview]:
        """Return the order of its bytes, C or F, and these, which keep it; copied if they have gaps."""
        order = "C" if self.is_compact("C") else "F" if self.is_compact("F") else None
        if not self.nbytes:
            return order or "C", memoryview(b"")
        if order is None:
            return "C", self._copied()
        return order, memoryview(bytes_keeping(self.address, self.nbytes, self.capsule))

    def _copied(self) -> memoryview:
        """Return the bytes in C order, copied by NumPy. TypeError: that is not there."""
        try:
            import numpy as np
        except ImportError:
            raise TypeError(
                "the tensor has gaps: x.contiguous() has none, or pip install 'shmhost[numpy]'"
            ) from None
        reach = [(length - 1) * step for length, step in zip(self.shape, self.strides, strict=True)]
        low = self.address + sum(min(step, 0) for step in reach)
        span = sum(map(abs, reach)) + self.itemsize
        code = f"u{self.itemsize}" if self.itemsize < 16 else "c16"
        items: Any = np.ndarray(self.shape, code, memory_at(low, span), self.address - low, self.strides)
        return np.ascontiguousarray(items).reshape(-1).view(np.uint8).data


def read_tensor(obj: Any) -> Tensor:
    """Return the tensor of what has `__dlpack__`. TypeError, with advice: it cannot be stored."""
    try:
        kind, number = obj.__dlpack_device__()
    except _REFUSALS as error:
        raise _refused(obj, error) from error
    if kind not in _READABLE:
        device = _DEVICES.get(kind, f"type {int(kind)}")
        raise TypeError(
            f"the {type(obj).__name__} is on the device {device}:{number}, where other processes cannot read "
            "it: put a copy in the memory of the CPU, such as x.cpu()"
        )
    try:
        capsule = _capsule_of(obj)
        address, is_versioned = dlpack_address(capsule)
    except _REFUSALS as error:
        raise _refused(obj, error) from error
    flags = 0
    if is_versioned:
        major, minor, _, _, flags = _VERSION.unpack(memory_at(address, _VERSION.size))
        if major != MAJOR:
            raise TypeError(
                f"the {type(obj).__name__} speaks DLPack {major}.{minor}: install a later shmhost"
            )
        address += _VERSION.size
    return _tensor_at(address, flags, capsule)


def _capsule_of(obj: Any) -> object:
    try:
        return obj.__dlpack__(max_version=(MAJOR, 0))
    except TypeError:  # of before the array API standard of 2023
        return obj.__dlpack__()


def _refused(obj: object, error: Exception) -> TypeError:
    name = f"{type(obj).__module__}.{type(obj).__qualname__}"
    return TypeError(f"this {name} cannot be stored: {error}; perhaps np.asarray(x) can")


def _tensor_at(address: int, flags: int, capsule: object) -> Tensor:
    data, _, _, count, code, bits, lanes, shape, strides, offset = _TENSOR.unpack(
        memory_at(address, _TENSOR.size)
    )
    name, itemsize = _type_of(code, bits, lanes, flags)
    lengths = _words(shape, count)
    steps = tuple(step * itemsize for step in _words(strides, count)) if strides else None
    if steps is None:
        steps = tuple(math.prod(lengths[number + 1 :]) * itemsize for number in range(count))
    return Tensor(data + offset, name, itemsize, lengths, steps, capsule)


def _words(address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"={count}q", memory_at(address, 8 * count)) if count else ()


def _type_of(code: int, bits: int, lanes: int, flags: int) -> tuple[str, int]:
    """Return the name of a type in our metadata, and the bytes of an item."""
    if lanes == 1:
        letter, size = _NUMBERS.get(code), bits // 8
        if letter is not None and bits % 8 == 0 and size in _SIZES[letter]:
            return f"{'|' if size == 1 else '<'}{letter}{size}", size
        if (code, bits) in _SMALL and (bits >= 8 or flags & PADDED):
            return _SMALL[code, bits], max(size, 1)
    packed = ", several in a byte" if bits < 8 else ""
    raise TypeError(
        f"a tensor of DLPack's type {code} with {bits} bits and {lanes} lanes{packed} cannot be stored: put "
        "a view of its bytes, such as x.view(torch.uint8)"
    )
