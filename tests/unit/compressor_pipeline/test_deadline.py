"""When a search has to stop."""

import math

import pytest

from edgemodel_api.job import JobSpec
from edgemodel_compressor.deadline import Deadline, TimeUpError


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def job(timeout=None, deadline=None):
    return JobSpec.model_validate(
        {
            "namespace": "n",
            "name": "m",
            "revision": "r",
            "source": {"uri": "file:m.onnx"},
            "platforms": ["linux/amd64"],
            "output": "oci-layout:///x",
            "compression": {"search": {"timeout": timeout} if timeout else {}},
            **({"deadlineSeconds": deadline} if deadline else {}),
        }
    )


def test_without_limits_no_clock_is_asked():
    def never():
        raise AssertionError

    deadline = Deadline(math.inf, "", 0.0, never)
    assert not deadline.passed
    assert deadline.left == math.inf
    deadline.check()


def test_the_timeout_counts_from_the_beginning_of_the_search():
    clock = Clock()
    deadline = Deadline.of(job(timeout="30s"), 0.0, clock)
    assert deadline.left == 30
    clock.now += 29
    deadline.check()
    clock.now += 1
    assert deadline.passed
    with pytest.raises(TimeUpError):
        deadline.check()
    assert "30 s (compression.search.timeout 30s) with 7 candidates" in deadline.warning(7)


def test_the_jobs_own_end_counts_from_its_beginning_and_leaves_time_for_the_rest():
    clock = Clock()
    assert Deadline.of(job(deadline=1000), 0.0, clock).left == pytest.approx(500)
    assert Deadline.of(job(timeout="30s", deadline=1000), 0.0, clock).left == 30
    assert Deadline.of(job(timeout="30s", deadline=150), 0.0, clock).passed


def test_a_job_without_either_goes_on_for_ever():
    assert Deadline.of(job(), 0.0, Clock()).left == math.inf
