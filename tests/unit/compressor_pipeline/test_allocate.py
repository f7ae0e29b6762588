"""Lagrangian allocation: every prefix of the moves is a best choice for some exchange rate."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgemodel_compressor.allocate import Option, allocation, hull, moves, moves_within

options = st.lists(
    st.builds(Option, st.integers(0, 9), st.integers(1, 60), st.integers(0, 60).map(float)), min_size=1, max_size=6
)
layers = st.dictionaries(st.sampled_from("abcd"), options, min_size=1, max_size=4)


def total(chosen):
    return sum(o.bytes for o in chosen.values()), sum(o.error for o in chosen.values())


def test_by_hand():
    """b's first move saves 4 bytes for 1, a's 4 for 2, b's second 2 for 9: that order."""
    given_layers = {
        "a": [Option(0, 8, 0.0), Option(1, 4, 2.0)],
        "b": [Option(0, 8, 0.0), Option(1, 4, 1.0), Option(2, 2, 10.0), Option(3, 5, 5.0)],
    }
    assert moves(given_layers) == 3
    keys = [{n: o.key for n, o in allocation(given_layers, count).items()} for count in range(4)]
    assert keys == [{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 2}]


@given(layers)
def test_bytes_fall_and_errors_rise_with_the_moves(found):
    sums = [total(allocation(found, count)) for count in range(moves(found) + 1)]
    for (many, few_errors), (few, many_errors) in itertools.pairwise(sums):
        assert few < many
        assert many_errors >= few_errors
    assert allocation(found, 10**6) == allocation(found, moves(found))


@given(layers)
def test_no_other_choice_has_both_fewer_bytes_and_less_error(found):
    every = [total(dict(zip(found, choice, strict=True))) for choice in itertools.product(*found.values())]
    for count in range(moves(found) + 1):
        size, error = total(allocation(found, count))
        assert not any(s <= size and e <= error and (s, e) != (size, error) for s, e in every)


@given(layers, st.floats(-1, 300))
def test_moves_within_an_error_are_the_most_that_keep_it(found, error):
    count = moves_within(found, error)
    assert count == 0 or total(allocation(found, count))[1] <= error
    assert count == moves(found) or total(allocation(found, count + 1))[1] > error


@given(options, st.randoms())
def test_the_order_of_the_options_does_not_matter(found, order):
    shuffled = list(found)
    order.shuffle(shuffled)
    assert [(o.bytes, o.error) for o in hull(found)] == [(o.bytes, o.error) for o in hull(shuffled)]
