"""Progress lines are few, and the last word always comes through."""

import io
import json

from edgemodel_api.job import Progress
from edgemodel_compressor.progress import LEAST_SECONDS, Lines, counter


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_throttled_but_changes_and_the_end_are_written():
    stream, clock = io.StringIO(), Clock()
    write = Lines(stream, clock)
    for done in range(1001):
        clock.now += 0.001
        write(Progress(stage="fetch", done=done, total=1000, message="source"))
    write(Progress(stage="load"))
    found = lines(stream)
    assert len(found) <= 1.001 / LEAST_SECONDS + 3
    assert found[-2]["done"] == 1000
    assert found[-1]["stage"] == "load"
    assert all(Progress.model_validate(line) for line in found)


def test_a_closed_pipe_ends_the_writing_not_the_job():
    class Broken(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    write = Lines(Broken())
    write(Progress(stage="a"))
    write(Progress(stage="b"))


def test_counter():
    found = []
    counter(found.append, "fetch", "source")(3, 10)
    assert found == [Progress(stage="fetch", done=3, total=10, message="source")]
