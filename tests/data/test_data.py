"""Data sets: what packages hold, and files in the published formats, written here."""

import gzip
import struct

import numpy as np
import pytest

import jaxsde as js
from jaxsde.data import _load


@pytest.mark.parametrize(
    "name, train, test, classes",
    [("breast_cancer", (455, 30), 114, 2), ("digits", (1438, 1, 8, 8), 359, 10), ("mnist", (4000, 1, 28, 28), 1000, 10)],
)
def test_packaged_data(name, train, test, classes):
    data = js.data.load(name)
    assert data.train.features.shape == train and len(data.test.labels) == test and data.classes == classes
    assert data.train.features.dtype == np.float32 and data.train.labels.dtype == np.int32
    axes = (0,) if data.train.features.ndim == 2 else (0, 2, 3)
    np.testing.assert_allclose(data.train.features.mean(axis=axes), 0, atol=1e-5)
    np.testing.assert_allclose(data.train.features.std(axis=axes), 1, rtol=1e-5)
    for split in (data.train, data.test):
        assert set(split.labels) == set(range(classes))


def test_splits_have_no_example_in_common_and_lose_none():
    from sklearn.datasets import load_breast_cancer

    data, everything = js.data.load("breast_cancer"), load_breast_cancer().data
    both = np.concatenate([data.train.features, data.test.features])
    # Standardising is affine, column by column, so the order within a column stays.
    assert len(np.unique(both, axis=0)) == len(everything)
    np.testing.assert_allclose(np.corrcoef(np.sort(both[:, 0]), np.sort(everything[:, 0]))[0, 1], 1, rtol=1e-6)


def _write_idx(path, array):
    content = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _write_fashion_mnist(folder, suffix):
    random = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", 12), ("t10k", 5)):
        arrays[prefix] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[prefix], strict=True):
            _write_idx(folder / f"{prefix}-{kind}-ubyte{suffix}", array)
    return arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path, suffix):
    written = _write_fashion_mnist(tmp_path, suffix)
    data = js.data.load("fashion_mnist", tmp_path)
    images, labels = written["t10k"]
    mean, std = written["train"][0].mean(), written["train"][0].std()
    np.testing.assert_allclose(data.test.features[:, 0], (images - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(data.test.labels, labels)
    assert sorted(data.train.labels) == sorted(written["train"][1])


@pytest.mark.skipif(not _load._DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_where_debian_puts_it():
    data = js.data.load("fashion_mnist")
    assert data.train.features.shape == (60_000, 1, 28, 28) and len(data.test.labels) == 10_000
    assert np.all(np.bincount(data.train.labels) == 6000) and np.all(np.bincount(data.test.labels) == 1000)


def test_cifar10_binary_files(tmp_path):
    random = np.random.default_rng(1)
    pixels = {}
    for name, count in (("data_batch_1", 6), ("data_batch_2", 4), ("test_batch", 3)):
        pixels[name] = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        rows = [bytes([i % 10]) + image.tobytes() for i, image in enumerate(pixels[name])]
        (tmp_path / f"{name}.bin").write_bytes(b"".join(rows))
    data = js.data.load("cifar10", tmp_path)
    train = np.concatenate([pixels["data_batch_1"], pixels["data_batch_2"]])
    mean, std = train.mean(axis=(0, 2, 3)), train.std(axis=(0, 2, 3))
    expected = (pixels["test_batch"] - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(data.test.features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(data.test.labels, [0, 1, 2])
    assert data.train.features.shape == (10, 3, 32, 32)


def test_text(tmp_path):
    text = "".join(f"line {i}: the quick brown fox, ä\n" for i in range(200))
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    data = js.data.load("text", path, length=50)
    assert data.classes == len(set(text)) == len(data.vocabulary)
    read = lambda numbers: "".join(data.vocabulary[i] for i in numbers)
    pieces = [read(row) for row in (*data.train.features, *data.test.features)]
    nexts = [read(row) for row in (*data.train.labels, *data.test.labels)]
    assert all(
        piece[1:] == following[:-1] and piece + following[-1] in text for piece, following in zip(pieces, nexts, strict=True)
    )
    assert sorted(pieces) == sorted(text[i : i + 50] for i in range(0, len(text) - 50, 50))
    end = "".join(read(row) for row in data.test.features)
    assert text[: len(pieces) * 50].endswith(end)


def test_default_text_is_english_prose():
    data = js.data.load("text")
    assert data.shape == (64,) and data.classes > 60
    words = "".join(data.vocabulary[i] for i in data.train.features[:300].ravel())
    assert words.count(" the ") > 50


def test_first():
    data = js.data.load("digits")
    np.testing.assert_array_equal(data.first(10).train.features, data.train.features[:10])
    assert len(data.first(10).test.labels) == len(data.test.labels)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda folder: js.data.load("imagenet"), ValueError, "imagenet"),
        (lambda folder: js.data.load("digits", folder), ValueError, "path"),
        (lambda folder: js.data.load("digits", length=3), ValueError, "length"),
        (lambda folder: js.data.load("cifar10"), ValueError, "folder"),
        (lambda folder: js.data.load("cifar10", folder), FileNotFoundError, "cifar-10-binary"),
        (lambda folder: js.data.load("fashion_mnist", folder), FileNotFoundError, "dataset-fashion-mnist"),
        (lambda folder: js.data.load("text", folder / "none.txt"), FileNotFoundError, "none.txt"),
        (lambda folder: js.data.load("text", length=10**6), ValueError, "too short"),
        (lambda folder: js.data.load("digits").first(10**6), ValueError, "1438"),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path, call, error, message):
    with pytest.raises(error, match=message):
        call(tmp_path)


def test_damaged_files_are_named(tmp_path):
    _write_fashion_mnist(tmp_path, "")
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="train-images"):
        js.data.load("fashion_mnist", tmp_path)
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="not an IDX file"):
        js.data.load("fashion_mnist", tmp_path)
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / f"{name}.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match="CIFAR-10"):
        js.data.load("cifar10", tmp_path)
