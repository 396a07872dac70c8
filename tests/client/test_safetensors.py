"""Safetensors files go into regions as they are, and out again; nothing in a header is believed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import shmclient
from shmclient import InvalidArgument, read_safetensors, write_safetensors
from shmclient._codecs.safetensors import DTYPES, Header, parse_header
from shmclient._drivers import tensor_files
from tensor_support import CUDA, Producer

LARGE = np.arange(50_000, dtype="<f4").reshape(100, 500)
TENSORS = {
    "model.embed.weight": LARGE,
    "model.bias": np.arange(7, dtype="<i8"),
    "half": LARGE[:30].astype("<f2"),
    "none": np.zeros((0, 3), "<f8"),
    "scalar": np.array(2.5, "<f8"),
    "flags": np.array([True, False]),
    "brain": LARGE.astype(ml_dtypes.bfloat16),
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file that the format's own package has written."""
    file = str(tmp_path / "model.safetensors")
    safetensors.numpy.save_file(TENSORS, file, metadata={"format": "pt"})
    return file


def is_same(value: Any, array: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays are the same in all that is stored."""
    return (value.dtype, value.shape, value.tobytes()) == (array.dtype, array.shape, array.tobytes())


def made(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> str:
    """Write a file with this header, which is bytes or what becomes JSON."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(content) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + content + data)
    return str(path)


def test_file_of_the_package_is_read_as_arrays_over_its_mapping(path: str) -> None:
    tensors = read_safetensors(path)
    assert tensors.metadata == {"format": "pt"}
    assert tensors.keys() == TENSORS.keys()
    assert all(is_same(tensors[name], array) for name, array in TENSORS.items())
    assert not any(tensor.flags.writeable for tensor in tensors.values())
    start = tensors["brain"].ctypes.data
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path)]
    assert any(low <= start < high for low, high in map(bounds, lines))


def bounds(line: str) -> list[int]:
    """Return start and end of a mapping."""
    return [int(part, 16) for part in line.split(maxsplit=1)[0].split("-")]


def test_each_tensor_becomes_a_region(shm: shmclient.Client, path: str) -> None:
    reported: list[int] = []
    names = shmclient.put_safetensors(shm, path, "llm/7b", mode=0o640, progress=reported.append)
    assert sorted(names) == [f"llm/7b/{name}" for name in sorted(TENSORS)]
    assert all(is_same(shm.get(f"llm/7b/{name}"), array) for name, array in TENSORS.items())
    assert shm.stat("llm/7b/brain").mode == 0o640
    assert reported == sorted(reported)
    assert reported[-1] == sum(array.nbytes for array in TENSORS.values())


def test_file_becomes_one_region_or_a_value_of_an_arena(
    shm: shmclient.Client, arena: shmclient.Arena, other: shmclient.Client, path: str
) -> None:
    tensors = read_safetensors(path)
    shm.put("model", tensors)
    arena["model"] = tensors
    for value in (other.get("model"), other.get("camera/model")):
        assert value.keys() == TENSORS.keys()
        assert all(is_same(value[name], array) for name, array in TENSORS.items())


def test_arrays_are_written_as_a_file_that_the_package_reads(shm: shmclient.Client, tmp_path: Path) -> None:
    shm.put("model", {**TENSORS, "turned": LARGE.T})
    file = tmp_path / "files" / "again"
    file.parent.mkdir()
    write_safetensors(file, shm.get("model"), {"format": "np"})
    again = safetensors.numpy.load_file(file)
    assert all(is_same(again[name], array) for name, array in {**TENSORS, "turned": LARGE.T.copy()}.items())
    assert read_safetensors(file).metadata == {"format": "np"}
    assert os.listdir(file.parent) == ["again"]
    with pytest.raises(InvalidArgument, match="'x': safetensors has no tensors of dtype >f4"):
        write_safetensors(file, {"x": np.zeros(3, ">f4")})
    assert os.listdir(file.parent) == ["again"]


def test_tensors_are_written_as_put_takes_them(tmp_path: Path) -> None:
    brain = LARGE.astype(ml_dtypes.bfloat16)
    tensors = {
        "brain": Producer(brain, code=4),
        "transposed": Producer(LARGE.T),
        "gaps": Producer(brain[::2, ::3], code=4),
        "none": Producer(np.zeros((0, 3), "<f8")),
    }
    write_safetensors(tmp_path / "f", tensors)
    value = read_safetensors(tmp_path / "f")
    expected = {
        "brain": brain,
        "transposed": LARGE.T,
        "gaps": brain[::2, ::3],
        "none": np.zeros((0, 3), "<f8"),
    }
    assert all(is_same(value[name], array) for name, array in expected.items())
    with pytest.raises(TypeError, match=r"x\.cpu\(\)"):
        write_safetensors(tmp_path / "f", {"x": Producer(LARGE, device=CUDA)})


@pytest.mark.parametrize("name", DTYPES)
def test_each_dtype_of_the_format_is_read(tmp_path: Path, name: str) -> None:
    ours, size = DTYPES[name]
    entry = {"dtype": name, "shape": [3], "data_offsets": [0, 3 * size]}
    value = read_safetensors(made(tmp_path / "f", {"x": entry}, bytes(3 * size)))["x"]
    assert (value.dtype.itemsize, value.shape) == (size, (3,))
    assert (value.dtype.name if ours[0] not in "<|" else value.dtype.str) == ours


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    """Return what a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "empty": (lambda path: (path.write_bytes(b""), str(path))[1], "0 bytes are not a safetensors file"),
    "cut in the length": (lambda path: (path.write_bytes(b"\0" * 7), str(path))[1], "7 bytes are not"),
    "long header": (lambda path: made(path, {}, length=3), r"a header of 3 bytes is not in a file of 10"),
    "huge header": (
        lambda path: made(path, {}, length=2**63),
        r"a header of 9223372036854775808 bytes is over",
    ),
    "no JSON": (lambda path: made(path, b"{'x': 1}"), "the header is not JSON of the format"),
    "text behind": (lambda path: made(path, b"{}{}"), "Extra data"),
    "not UTF-8": (lambda path: made(path, b'{"\xff": 1}'), "the header is not JSON.*utf-8"),
    "nested": (lambda path: made(path, b'{"x":' * 100_000), "the header nests too deep"),
    "a list": (lambda path: made(path, []), r"the header is not an object: \[\]"),
    "NaN": (lambda path: made(path, b'{"x": NaN}'), "NaN is not a number of JSON"),
    "long number": (lambda path: made(path, b'{"x": ' + b"9" * 5000 + b"}"), "not JSON of the format"),
    "name twice": (lambda path: made(path, b'{"x": 1, "x": 2}'), "'x' is there twice"),
    "field twice": (
        lambda path: made(path, b'{"x": {"dtype": "U8", "dtype": "I8"}}'),
        "'dtype' is there twice",
    ),
    "metadata": (lambda path: made(path, {"__metadata__": {"a": 1}}), "__metadata__ maps texts to texts"),
    "no entry": (lambda path: made(path, {"x": 1}), "'x' has not just dtype, shape and data_offsets: 1"),
    "one field more": (lambda path: made(path, {"x": {**entry(), "y": 1}}), "'x' has not just dtype"),
    "unknown dtype": (
        lambda path: made(path, {"x": entry("F128")}),
        "'x' has the dtype 'F128': a region takes",
    ),
    "packed dtype": (lambda path: made(path, {"x": entry("F4")}), "'x' has the dtype 'F4'"),
    "dtype is a list": (lambda path: made(path, {"x": entry([])}), r"'x' has the dtype \[\]"),
    "shape is a text": (lambda path: made(path, {"x": entry(shape="4")}), "'x' has the shape '4'"),
    "negative length": (lambda path: made(path, {"x": entry(shape=[-4])}), r"'x' has the shape \[-4\]"),
    "length is true": (lambda path: made(path, {"x": entry(shape=[True])}), r"'x' has the shape \[True\]"),
    "length of a float": (lambda path: made(path, {"x": entry(shape=[4.0])}), r"'x' has the shape \[4.0\]"),
    "length over 64 bits": (lambda path: made(path, {"x": entry(shape=[2**64, 0])}), "'x' has the shape"),
    "65 dimensions": (lambda path: made(path, {"x": entry(shape=[1] * 65)}), "'x' has the shape.*up to 64"),
    "product overflows": (
        lambda path: made(path, {"x": entry(shape=[2**62, 4])}),
        "takes 18446744073709551616",
    ),
    "empty, of a size that overflows": (
        lambda path: made(path, {"x": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}),
        "'x' has the shape .* too large, even if it is empty",
    ),
    "offsets": (lambda path: made(path, {"x": entry(offsets=[0, 4, 8])}), r"'x' has the offsets \[0, 4, 8\]"),
    "negative offset": (lambda path: made(path, {"x": entry(offsets=[-4, 0])}), r"the offsets \[-4, 0\]"),
    "size": (
        lambda path: made(path, {"x": entry(offsets=[0, 5])}, b"12345"),
        "takes 4 bytes of U8, and is at 0 to 5",
    ),
    "backwards": (lambda path: made(path, {"x": entry(shape=[0], offsets=[4, 0])}, b"1234"), "is at 4 to 0"),
    "overlap": (
        lambda path: made(path, {"x": entry(), "y": entry(offsets=[3, 7])}, b"1234567"),
        "'y', at 3 to 7, overlaps 'x', which ends at 4",
    ),
    "the same twice": (lambda path: made(path, {"x": entry(), "y": entry()}, b"1234"), "overlaps 'x'"),
    "gap": (
        lambda path: made(path, {"x": entry(), "y": entry(offsets=[5, 9])}, b"123456789"),
        "'y', at 5 to 9, leaves a gap behind 'x', which ends at 4",
    ),
    "gap in front": (lambda path: made(path, {"x": entry(offsets=[1, 5])}, b"12345"), "behind the start"),
    "cut": (lambda path: made(path, {"x": entry()}, b"123"), "the tensors end at 4, and the data at 3"),
    "added to": (
        lambda path: made(path, {"x": entry()}, b"12345"),
        "the tensors end at 4, and the data at 5",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_file_that_is_not_sound_is_refused_with_its_values(tmp_path: Path, name: str) -> None:
    make, text = BAD[name]
    with pytest.raises(InvalidArgument, match=text) as caught:
        read_safetensors(make(tmp_path / "bad.safetensors"))
    assert str(caught.value).startswith(f"{tmp_path}/bad.safetensors: ")


NUMBERS = st.integers(-2, 9) | st.sampled_from([2**31, 2**63, 2**64, True, 1.5, None])
LISTS = st.lists(NUMBERS, max_size=3)
ENTRIES = st.fixed_dictionaries(
    {"dtype": st.sampled_from([*DTYPES, "F4", 1]), "shape": LISTS, "data_offsets": LISTS}
)


@given(st.dictionaries(st.text(max_size=3), ENTRIES | NUMBERS, max_size=3), st.integers(0, 9))
def test_header_is_sound_or_refused(header: dict[str, Any], size: int) -> None:
    try:
        entries = parse_header(json.dumps(header).encode(), size).entries
    except InvalidArgument:
        return
    assert sorted(each.name for each in entries) == sorted(header)
    assert sum(each.end - each.begin for each in entries) == size


@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_or_refused(raw: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        assert parse_header(b"{" + raw, 0).entries == ()


def test_names_are_checked_before_the_first_is_put(shm: shmclient.Client, tmp_path: Path) -> None:
    header = {"good": entry(), "bad/../name": entry(offsets=[4, 8])}
    file = made(tmp_path / "f", header, b"12345678")
    with pytest.raises(InvalidArgument, match=r"bad/\.\./name"):
        shmclient.put_safetensors(shm, file, "m")
    assert shm.list() == []
    shm.put("one", read_safetensors(file))  # the keys of a dict are any text
    assert shm.get("one")["bad/../name"].tobytes() == b"5678"


def test_file_that_is_cut_meanwhile_is_an_error_and_nothing_is_put(shm: shmclient.Client, path: str) -> None:
    tensors = read_safetensors(path)
    os.truncate(path, 4096)
    with pytest.raises(InvalidArgument, match="the file was cut while it was read: 'm' is unchanged"):
        tensor_files.whole(shm, "m", tensors, 0o600, None)
    assert "m" not in shm


def test_file_that_is_cut_before_it_is_mapped_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "f")
    safetensors.numpy.save_file({"x": LARGE}, path)

    def parse(raw: bytes, data_size: int) -> Header:
        os.truncate(path, 8 + len(raw))
        return parse_header(raw, data_size)

    monkeypatch.setattr(tensor_files.format_, "parse_header", parse)
    with pytest.raises(InvalidArgument, match="it was cut while it was read"):
        read_safetensors(path)


def test_file_is_replaced_whole_and_nothing_else_is_touched(tmp_path: Path) -> None:
    target, others = tmp_path / "f", tmp_path / f"f.{os.getpid()}.part"
    others.write_bytes(b"another thread's")
    mask = os.umask(0o027)
    try:
        write_safetensors(os.fsencode(target), {"x": np.arange(3)})  # type: ignore[arg-type]
    finally:
        os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o640
    before = target.read_bytes()
    with pytest.raises(InvalidArgument):
        write_safetensors(target, {"x": np.zeros(3, ">f4")})
    assert (others.read_bytes(), target.read_bytes()) == (b"another thread's", before)
    assert {file.name for file in tmp_path.iterdir()} == {target.name, others.name}
    (tmp_path / "link").symlink_to("f")
    with pytest.raises(InvalidArgument, match="is a link"):
        write_safetensors(tmp_path / "link", {"x": np.arange(4)})


def test_pipe_is_not_a_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(InvalidArgument, match="pipe is not a regular file"):
            tensor_files.read_descriptor(reader, "pipe")
    finally:
        os.close(reader)
        os.close(writer)


def test_missing_ml_dtypes_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        if name == "bfloat16":
            raise ImportError("there is no ml_dtypes")
        return np.dtype(name)

    monkeypatch.setattr(tensor_files, "parse", missing)
    with pytest.raises(ImportError, match=r"model\.safetensors: 'brain' needs it: pip install"):
        read_safetensors(path)


def test_file_of_torch_is_loaded_as_tensors(shm: shmclient.Client, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    package = pytest.importorskip("safetensors.torch")
    weights = {"a": torch.ones(300, 40, dtype=torch.bfloat16), "b": torch.arange(8).to(torch.float8_e5m2)}
    package.save_file(weights, tmp_path / "f")
    shm.put("m", read_safetensors(tmp_path / "f"))
    tensors = shm.get("m", as_="torch")
    assert torch.equal(tensors["a"], weights["a"])
    assert tensors["b"].dtype is torch.float8_e5m2
    write_safetensors(tmp_path / "g", shm.get("m"))
    assert torch.equal(package.load_file(tmp_path / "g")["a"], weights["a"])
