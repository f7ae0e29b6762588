"""Messages and descriptors over the control socket, on a socket pair."""

import os
import socket
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgemodel_agent.server.control_server import allowed, peer_user
from edgemodel_agent.server.wire import FDS_PER_MESSAGE, ControlError, close_fds, receive, receive_fds, send, send_fds


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    with a, b:
        for s in (a, b):
            s.settimeout(10)
        yield a, b


NUMBERS = hnp.arrays(
    st.sampled_from(["?", "i1", "u8", "<f2", "<f4", ">f8", "<i8"]), hnp.array_shapes(min_dims=0, min_side=0, max_side=5)
)
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4), max_size=4)


@settings(max_examples=50)
@given(st.lists(NUMBERS, max_size=3), TEXTS)
def test_arrays_arrive_as_they_were(arrays, texts):
    a, b = socket.socketpair()
    with a, b:
        named = {f"n{i}": v for i, v in enumerate(arrays)} | {"texts": np.array([*texts, None], object)[:-1]}
        send(a, {"do": "x"}, named)
        message, found = receive(b)
    assert message == {"do": "x"}
    assert list(found) == list(named)
    for name, array in named.items():
        assert found[name].shape == array.shape
        assert found[name].tolist() == array.tolist() or found[name].tobytes() == array.tobytes()


def test_a_large_message_and_the_end(pair):
    a, b = pair
    array = np.arange(2_000_000, dtype=np.float32)
    thread = threading.Thread(target=send, args=(a, {"n": 1}, {"x": array}))
    thread.start()
    _, found = receive(b)
    thread.join()
    assert np.array_equal(found["x"], array)
    a.shutdown(socket.SHUT_WR)
    assert receive(b) is None


def test_a_deadline_that_has_passed(pair):
    with pytest.raises(TimeoutError):
        receive(pair[1], deadline=0.0)


@pytest.mark.parametrize("count", [0, 1, 2, FDS_PER_MESSAGE + 1], ids=str)
def test_descriptors_arrive_in_their_order(pair, count):
    pipes = [os.pipe() for _ in range(count)]
    try:
        send_fds(pair[0], [read for read, _ in pipes])
        found = receive_fds(pair[1], count)
        for (_, write), fd in zip(pipes, found, strict=True):
            os.write(write, b"%d" % write)
            assert os.read(fd, 100) == b"%d" % write
            assert not os.get_inheritable(fd)
        close_fds(found)
    finally:
        close_fds(fd for ends in pipes for fd in ends)


def test_fewer_descriptors_than_promised_are_closed_again(pair):
    a, b = pair
    read, write = os.pipe()
    send_fds(a, [write])
    os.close(write)
    a.shutdown(socket.SHUT_WR)
    with pytest.raises(ControlError, match="1 of 2 descriptors"):
        receive_fds(b, 2)
    assert os.read(read, 1) == b"", "no copy of the writing end is left open"
    os.close(read)


def test_only_the_own_user_and_root_may_talk(pair):
    assert peer_user(pair[0]) == os.getuid()
    assert allowed(os.getuid())
    assert allowed(0)
    assert allowed(None)
    assert not allowed(os.getuid() + 1)
