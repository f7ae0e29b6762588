"""Whose the store is: locks, the order of claims, and what is told of a standby."""

from __future__ import annotations

import threading

import pytest

from edgemodel_agent import claims
from edgemodel_agent.node import Options
from edgemodel_agent.options import remember, remembered
from edgemodel_agent.standby_watch import ANSWER, PATIENCE_SECONDS, WISH, StandbyWatch
from edgemodel_api.errors import InputError, RefusedError


def test_a_lock_is_one_holders_until_it_is_let_go(tmp_path):
    path = tmp_path / "store" / claims.LOCK
    assert not claims.held(path)
    first = claims.try_lock(path)
    assert first is not None
    assert claims.held(path)
    assert claims.try_lock(path) is None
    first.close()
    assert not claims.held(path)
    claims.take(path.parent).close()


def test_without_a_claim_the_second_one_is_refused(tmp_path):
    with claims.take(tmp_path), pytest.raises(RefusedError, match="another agent works in"):
        claims.take(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="give a folder that can be written"):
        claims.take(tmp_path / "file")


def test_a_claim_waits_and_says_that_it_does(tmp_path):
    told = threading.Event()
    found: list[object] = []
    owner = claims.take(tmp_path)
    claimer = threading.Thread(target=lambda: found.append(claims.claim(tmp_path, lambda: False, told.set)))
    claimer.start()
    assert told.wait(5)
    assert claims.claimed(tmp_path)
    owner.close()
    claimer.join(5)
    handle, waited = found[0]
    assert waited
    assert not claims.claimed(tmp_path), "what was claimed is held now"
    assert claims.held(tmp_path / claims.LOCK)
    handle.close()


def test_a_free_store_is_claimed_without_a_wait(tmp_path):
    told: list[bool] = []
    found = claims.claim(tmp_path, lambda: False, lambda: told.append(True))
    assert found is not None
    assert (found[1], told) == (False, [])
    found[0].close()


def test_of_two_claimers_one_is_first_and_a_claim_can_be_given_up(tmp_path):
    owner = claims.take(tmp_path)
    first = claims.try_lock(tmp_path / claims.CLAIM)
    stop = threading.Event()
    found: list[object] = []
    second = threading.Thread(target=lambda: found.append(claims.claim(tmp_path, stop.is_set, lambda: None)))
    second.start()
    owner.close()
    second.join(0.3)
    assert second.is_alive(), "the store is free, but somebody else claimed it before"
    stop.set()
    second.join(5)
    assert found == [None]
    first.close()


@pytest.mark.parametrize("address", [None, "10.0.0.9"])
def test_a_standby_has_the_options_of_the_agent_before_it(tmp_path, address):
    options = Options(
        node="n", root=tmp_path, address="10.0.0.1", bind="0.0.0.0", recheck=0.5, reserve=7, server_threads=3, claim=True
    )  # fmt: skip
    remember(options)
    found = remembered(tmp_path, address)
    assert (found.node, found.address, found.bind) == ("n", address or "10.0.0.1", "0.0.0.0")
    assert (found.recheck, found.reserve, found.server_threads) == (0.5, 7, 3)
    assert found.standby
    assert found.claim


@pytest.mark.parametrize("content", ["", "[]", '{"recheck": "soon"}', '{"node": 5}'])
def test_options_that_are_of_no_use_are_replaced_by_defaults(tmp_path, content):
    (tmp_path / "options.json").write_text(content)
    assert remembered(tmp_path).recheck == 30


def test_what_is_said_of_a_standby(tmp_path):
    now = 0.0
    watch = StandbyWatch(tmp_path, expected=True, clock=lambda: now)
    assert watch.look(retire=False) is None, "it may still come"
    with claims.try_lock(tmp_path / claims.STANDBY):
        now += 10
        assert watch.look(retire=False) == "Waiting"
    now += 10
    assert watch.look(retire=False) == "Waiting", "it may be starting anew"
    now += PATIENCE_SECONDS
    assert watch.look(retire=False) == "Missing"


def test_a_standby_is_retired_once_the_answer_is_there(tmp_path):
    now = 0.0
    watch = StandbyWatch(tmp_path, expected=True, clock=lambda: now)
    with claims.try_lock(tmp_path / claims.STANDBY):
        now += 10
        assert watch.look(retire=True) == "Waiting"
        assert (tmp_path / WISH).exists()
        (tmp_path / ANSWER).touch()
        now += 10
        assert watch.look(retire=True) == "Waiting", "its pod is still there"
    now += 10
    assert watch.look(retire=True) == "Retired"
    now += 10
    watch.look(retire=False)
    assert not (tmp_path / WISH).exists()


def test_where_no_standby_is_expected_nothing_is_said_or_done(tmp_path):
    watch = StandbyWatch(tmp_path, expected=False)
    assert watch.look(retire=True) is None
    assert list(tmp_path.iterdir()) == []
