"""Files that are truncated, that lie about what they hold, or that mean harm, are refused by an error that names them, and take
no more memory than what they should hold."""

import gzip
import os
import pickle
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

import jaxsde as js
from jaxsde.data._files import read_cifar10, read_idx

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
BYTES = IMAGES.tobytes()
RECORD = bytes([3]) + bytes(3072)


def _idx(*lengths, content=BYTES, kind=8, magic=b"\0\0"):
    return magic + bytes([kind, len(lengths)]) + struct.pack(f">{len(lengths)}I", *lengths) + content


WHOLE = _idx(2, 3, 4)
DAMAGED = {
    "nothing": (b"", "is not an IDX file"),
    "half a magic number": (WHOLE[:3], "is not an IDX file"),
    "another magic number": (_idx(2, 3, 4, magic=b"\1\0"), "is not an IDX file"),
    "signed bytes": (_idx(2, 3, 4, kind=9), "is not an IDX file of unsigned bytes"),
    "doubles": (_idx(2, 3, 4, kind=14), "is not an IDX file of unsigned bytes"),
    "no axes": (_idx(), "an array of 3 axes, but its head says 0"),
    "another number of axes": (_idx(24), "an array of 3 axes, but its head says 1"),
    "255 axes": (_idx(*[1] * 255), "an array of 3 axes, but its head says 255"),
    "half a head": (WHOLE[:10], "ends within its head"),
    "a byte less": (WHOLE[:-1], r"shape \(2, 3, 4\), 24 bytes, but has 23 after its head"),
    "a byte more": (WHOLE + b"x", r"shape \(2, 3, 4\), 24 bytes, but has more after its head"),
    "the head says more": (_idx(3, 3, 4), "36 bytes, but has 24"),
    "the head says less": (_idx(1, 3, 4), "12 bytes, but has more"),
    "no examples": (_idx(0, 3, 4, content=b""), "holds no examples"),
    "a number that would be negative": (_idx(2**32 - 2, 3, 4), r"\(4294967294, 3, 4\), 51539607528 bytes, but has 24"),
    "more than an int64": (_idx(2**32 - 1, 2**32 - 1, 2**32 - 1), "bytes, but has 24"),
    "a product of 0 modulo 2**64": (_idx(2**31, 2**31, 4, content=b""), "bytes, but has 0"),
}


@pytest.mark.parametrize(("content", "message"), list(DAMAGED.values()), ids=list(DAMAGED))
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path, content, message, suffix):
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError, match=f"images{suffix} .*{message}"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: b"",
        lambda packed: WHOLE,
        lambda packed: packed[:5],
        lambda packed: packed[:-1],
        lambda packed: packed[:-8],
        lambda packed: packed[:10] + b"\xff" * 20 + packed[30:],
        lambda packed: packed[:-6] + b"\0\0" + packed[-4:],  # the checksum
    ],
)
def test_what_is_not_gzip(tmp_path, damage):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(WHOLE)))
    with pytest.raises(ValueError, match="images.gz is not"):
        read_idx(path, 3)


def _bomb(path, head, size):
    """Writes a gzip file of a head and so many zeros, a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        file.write(packer.compress(head))
        for _ in range(size >> 20):
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush())


@pytest.mark.parametrize(
    ("head", "message"),
    [(_idx(2, 3, 4, content=b""), "24 bytes, but has more"), (b"", "is not an IDX file"), (_idx(7, content=b""), "3 axes")],
)
def test_a_file_that_expands_far_beyond_its_head(tmp_path, head, message):
    path = tmp_path / "images.gz"
    _bomb(path, head, 2**27)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_idx(path, 3)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_head_that_says_far_more_than_there_is(tmp_path, suffix):
    path, content = tmp_path / f"images{suffix}", _idx(2**31, 2**31, 1)
    path.write_bytes(gzip.compress(content) if suffix else content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="has 24 after its head"):
            read_idx(path, 3)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


class _Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are no multiple of 3073"),
        (RECORD[:-1], "3072 bytes are no multiple"),
        (RECORD + b"x", "3074 bytes are no multiple"),
        (bytes([10]) + bytes(3072), "a label 10, above 9"),
        (RECORD + bytes([255]) + bytes(3072), "a label 255, above 9"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}), "are no multiple"),
        (pickle.dumps(_Harm()).ljust(3073, b"\0"), "a label 128, above 9"),
    ],
)
def test_cifar10(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_1.bin is no CIFAR-10 batch in binary format: .*{message}"):
        read_cifar10(path)
    assert not (tmp_path / "harm").exists()


def test_nothing_in_the_package_reads_pickles():
    # Reading one runs what its author wrote into it.
    folder = os.path.dirname(js.__file__)
    names = (os.path.join(root, name) for root, _, files in os.walk(folder) for name in files if name.endswith(".py"))
    for name in names:
        with open(name, encoding="utf-8") as file:
            text = file.read()
        text = re.sub(r"np\.load\([^()]*(\([^()]*\))?[^()]*allow_pickle=False\)|allow_pickle=False", "", text)
        assert "pickle" not in text and "np.load(" not in text and "marshal" not in text, name


def _fashion_mnist(folder, **changes):
    files = {
        "train-images-idx3": np.zeros((12, 4, 4), np.uint8), "train-labels-idx1": np.arange(12, dtype=np.uint8) % 10,
        "t10k-images-idx3": np.zeros((5, 4, 4), np.uint8), "t10k-labels-idx1": np.arange(5, dtype=np.uint8),
    } | {name.replace("_", "-"): array for name, array in changes.items()}  # fmt: skip
    for name, array in files.items():
        (folder / f"{name}-ubyte").write_bytes(_idx(*array.shape, content=array.tobytes()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train_labels_idx1=np.zeros(11, np.uint8)), "don't match"),
        (dict(t10k_labels_idx1=np.full(5, 10, np.uint8)), "t10k-labels-idx1-ubyte .* a label 10, above 9"),
        (dict(t10k_images_idx3=np.zeros((5, 2, 2), np.uint8)), r"training images .* \(4, 4\), the test images \(2, 2\)"),
        (dict(t10k_images_idx3=np.zeros((0, 4, 4), np.uint8)), "t10k-images-idx3-ubyte holds no examples"),
    ],
)
def test_files_that_do_not_go_together(tmp_path, changes, message):
    _fashion_mnist(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        js.data.load("fashion_mnist", tmp_path)


def test_text_in_another_encoding(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("Grüße ".encode("latin-1") * 1000)
    with pytest.raises(ValueError, match="text.txt is no text in UTF-8"):
        js.data.load("text", path)


@pytest.mark.parametrize("path", [3, b"folder", ["folder"]])
def test_paths(path):
    with pytest.raises(TypeError, match="path must be a path"):
        js.data.load("cifar10", path)
