"""Checkpoints: what was written comes back; everything else is ignored with a reason."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_compressor.training.checkpoint import Checkpoint, content_key, number

ARRAYS = [np.arange(6, dtype="f4").reshape(2, 3), np.array(7, dtype=np.int32), np.zeros((0, 2), "f4")]
HEADER = {"epoch": 3, "history": [[1.0, 2.0, 0.5]]}


@pytest.fixture
def checkpoint(tmp_path):
    found = Checkpoint(tmp_path / "deeper", content_key("a", 1), "distill")
    found.save(HEADER, ARRAYS)
    return found


def test_round_trip(checkpoint):
    header, arrays = checkpoint.load(ARRAYS)
    assert header == HEADER
    for got, want in zip(arrays, ARRAYS, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert np.array_equal(got, want)
    assert [p.name for p in checkpoint.folder.iterdir()] == [checkpoint.path.name]


def test_nothing_there(tmp_path):
    assert Checkpoint(tmp_path, content_key(), "distill").load(ARRAYS) is None


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path_factory, place, bit):
    checkpoint = Checkpoint(tmp_path_factory.mktemp("c"), content_key("a", 1), "distill")
    checkpoint.save(HEADER, ARRAYS)
    content = bytearray(checkpoint.path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    checkpoint.path.write_bytes(content)
    assert "is ignored and learning begins anew" in checkpoint.load(ARRAYS)


@pytest.mark.parametrize("cut", [0, 1, 40, 79, 100, -1])
def test_cut_short(checkpoint, cut):
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:cut])
    assert "ignored" in checkpoint.load(ARRAYS)


def test_longer_than_it_should_be(checkpoint):
    checkpoint.path.write_bytes(checkpoint.path.read_bytes() + b"x")
    assert "size is wrong" in checkpoint.load(ARRAYS)


def test_of_another_network(checkpoint):
    assert "size is wrong" in checkpoint.load([*ARRAYS, np.zeros(3)])


def test_of_other_settings(checkpoint):
    other = Checkpoint(checkpoint.folder, content_key("a", 2), "distill")
    assert other.path != checkpoint.path
    os.replace(checkpoint.path, other.path)
    assert "belongs to something else" in other.load(ARRAYS)


def test_a_header_that_claims_gigabytes(checkpoint):
    content = bytearray(checkpoint.path.read_bytes())
    content[72:80] = (2**40).to_bytes(8, "little")
    checkpoint.path.write_bytes(content)
    assert "size is wrong" in checkpoint.load(ARRAYS)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_no_regular_file(checkpoint, kind, tmp_path):
    checkpoint.path.unlink()
    if kind == "pipe":
        os.mkfifo(checkpoint.path)
    elif kind == "folder":
        checkpoint.path.mkdir()
    else:
        checkpoint.path.symlink_to("/dev/zero")
    assert "ignored" in checkpoint.load(ARRAYS)


@pytest.mark.parametrize("value", [None, True, "3", float("nan"), float("inf"), -1, 11, [1]])
def test_numbers_of_a_header(value):
    with pytest.raises(ValueError, match="epoch"):
        number({"epoch": value}, "epoch", least=0, most=10)


def test_keys_differ_by_every_part():
    keys = {content_key(*p) for p in [(), ("a",), ("a", 1), ("a", "1"), (["a", 1],), ({"a": 1},), (None,)]}
    assert len(keys) == 7
