"""Workers: as many as fit, messages whole, results in order, and a full disk that ends the Job."""

import io
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.errors import InputError
from edgemodel_compressor.judge import Known
from edgemodel_compressor.workers import FILE_FACTOR, WORKER_BYTES, Here, in_order, read, workers_for, write


@given(cores=st.integers(1, 64), memory=st.integers(0, 2**36), size=st.integers(1, 2**32))
def test_no_more_workers_than_cores_or_memory(cores, memory, size):
    count = workers_for(cores, memory, size)
    assert 1 <= count <= cores
    assert count == 1 or count * (WORKER_BYTES + FILE_FACTOR * size) <= memory


@given(st.lists(st.one_of(st.text(), st.binary(max_size=100), st.integers())))
def test_messages_come_back_in_order(values):
    stream = io.BytesIO()
    for value in values:
        write(stream, value)
    stream.seek(0)
    assert [read(stream) for _ in values] == values
    with pytest.raises(EOFError):
        read(stream)


def test_half_a_message_is_none():
    stream = io.BytesIO()
    write(stream, "whole")
    with pytest.raises(EOFError, match="half"):
        read(io.BytesIO(stream.getvalue()[:-1]))


def done(value):
    future = Future()
    future.set_result(value)
    return future


def test_results_end_where_the_time_does():
    late = Future()
    futures = [done(Known(1)), late, done(Known(3))]
    assert [k.size_bytes for k in in_order(futures, lambda: 0.0)] == [1]
    late.set_result(Known(2))
    assert [k.size_bytes for k in in_order(futures, lambda: float("inf"))] == [1, 2, 3]


def test_here_a_full_disk_ends_the_job():
    class Court:
        def judge(self, task):
            raise InputError("full", reason="DiskFull")

    with pytest.raises(InputError, match="full"):
        Here(Court()).submit(None).result()
