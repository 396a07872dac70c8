"""Producers of DLPack that no library is needed for, with any field of the structs as a test wants it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CPU, CUDA = 1, 2
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
READ_ONLY, PADDED = 1, 4

_new = ctypes.pythonapi.PyCapsule_New
_new.restype = ctypes.py_object
_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


class Producer:
    """A tensor over the memory of an array. `freed` counts the capsules that have ended.

    `major` None makes capsules of the kind without a version, and `__dlpack__` takes no argument then. The
    dtype is that of the array unless `code`, `bits` and `lanes` say another. Without `strides` it has none.
    """

    def __init__(
        self,
        array: np.ndarray[Any, Any],
        *,
        major: int | None = 1,
        flags: int = 0,
        code: int | None = None,
        bits: int | None = None,
        lanes: int = 1,
        device: int = CPU,
        strides: bool = True,
        byte_offset: int = 0,
    ) -> None:
        self.array = array
        self.freed = 0
        self._device, self._major, self._flags = device, major, flags
        self._type = CODES.get(array.dtype.kind) if code is None else code, bits or 8 * array.itemsize, lanes
        self._has_strides, self._byte_offset = strides, byte_offset
        self._end = _DESTRUCTOR(self._free)
        self._kept: list[Any] = []

    def _free(self, _: int) -> None:
        self.freed += 1

    def _tensor(self) -> _Tensor:
        array = self.array
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        strides = (ctypes.c_int64 * array.ndim)(*(step // array.itemsize for step in array.strides))
        self._kept += [shape, strides]
        tensor = _Tensor(
            array.ctypes.data - self._byte_offset, self._device, 0, array.ndim, *self._type, shape
        )
        if self._has_strides:
            tensor.strides = strides
        tensor.byte_offset = self._byte_offset
        return tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0

    def __dlpack__(self, **options: Any) -> object:
        if self._major is None:
            if options:
                raise TypeError("__dlpack__() takes no arguments")
            managed: Any = _Managed(self._tensor(), None, None)
            name = b"dltensor"
        else:
            managed = _Versioned(self._major, 0, None, None, self._flags, self._tensor())
            name = b"dltensor_versioned"
        self._kept.append(managed)
        return _new(ctypes.addressof(managed), name, ctypes.cast(self._end, ctypes.c_void_p))
