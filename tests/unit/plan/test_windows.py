"""Maintenance windows: when they open and close, and what nodes may do outside of them."""

from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api.edgemodel import Window
from edgemodel_api.errors import InputError
from edgemodel_operator.domain.windows import window_state

NIGHT = {"schedule": "0 2 * * *", "duration": "3h"}


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


STATES = {
    "none: always open": ([], "2026-01-02T12:00", True, None),
    "before": ([NIGHT], "2026-01-02T01:59:59", False, "2026-01-02T02:00"),
    "the first moment": ([NIGHT], "2026-01-02T02:00", True, "2026-01-02T05:00"),
    "the last moment": ([NIGHT], "2026-01-02T04:59:59.999", True, "2026-01-02T05:00"),
    "after": ([NIGHT], "2026-01-02T05:00", False, "2026-01-03T02:00"),
    "in local time": ([{**NIGHT, "timeZone": "Europe/Berlin"}], "2026-01-02T01:00", True, "2026-01-02T04:00"),
    "in local summer time": ([{**NIGHT, "timeZone": "Europe/Berlin"}], "2026-07-02T00:00", True, "2026-07-02T03:00"),
    "two that adjoin are one": (
        [NIGHT, {"schedule": "0 5 * * *", "duration": "1h"}], "2026-01-02T02:00", True, "2026-01-02T06:00"),
    "the next of two": ([NIGHT, {"schedule": "0 22 * * *", "duration": "1h"}], "2026-01-02T12:00", False, "2026-01-02T22:00"),
    "longer than its period": ([{"schedule": "0 2 * * *", "duration": "20h"}], "2026-01-03T12:00", True, "2026-01-03T22:00"),
    "no duration never opens": ([{"schedule": "0 2 * * *", "duration": "0s"}], "2026-01-02T02:00", False, None),
    "weekdays": ([{"schedule": "0 2 * * MON", "duration": "1h"}], "2026-01-02T02:30", False, "2026-01-05T02:00"),
}  # fmt: skip


@pytest.mark.parametrize(("windows", "now", "is_open", "changes"), STATES.values(), ids=STATES)
def test_state(windows, now, is_open, changes):
    state = window_state([Window.model_validate(w) for w in windows], at(now))
    assert (state.open, state.changes_at) == (is_open, at(changes) if changes else None)


def test_windows_that_never_close_are_asked_again_some_time():
    state = window_state([Window(schedule="* * * * *", duration="1m")], at("2026-01-02T12:00:30"))
    assert state.open
    assert state.changes_at > at("2026-01-02T12:30")


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"schedule": "61 * * * *"}, "spec.rollout.windows[0].schedule: '61 * * * *' is not a cron schedule"),
        ({"timeZone": "Europe/Atlantis"}, "spec.rollout.windows[0].timeZone: 'Europe/Atlantis' is not a time zone"),
        ({"timeZone": "../../etc/passwd"}, "spec.rollout.windows[0].timeZone"),
    ],
)
def test_what_does_not_exist_names_the_field(window, message):
    with pytest.raises(InputError) as error:
        window_state([Window.model_construct(**{
            "schedule": "0 2 * * *", "duration": "1h", "time_zone": window.pop("timeZone", "UTC"), **window})], at("2026-01-02"))  # fmt: skip
    assert message in str(error.value)


def windowed(make, **fields):
    # START is noon: this window opens ten minutes later.
    return make.edge_model().with_rollout(windows=[{"schedule": "10 12 * * *", "duration": "5m", **fields}])


def test_nodes_fetch_before_the_window_and_switch_in_it(make):
    world = make.world(windowed(make))
    world.run(turns=20)
    assert world.active() == []
    assert all(world.digest() in n.present for n in world.nodes)
    assert world.reason("Reconciling") == "WaitingForWindow"
    assert "the next window opens at 2026-01-02 12:10:00Z" in world.message("Reconciling")
    assert any(e.reason == "WaitingForWindow" for e in world.events)
    world.now = make.start + timedelta(minutes=10)
    world.run(until=lambda w: w.finished())


def test_who_has_not_switched_when_it_closes_waits_for_the_next(make):
    world = make.world(windowed(make).with_rollout(maxUnavailable=1))
    world.run(turns=20)
    world.now = make.start + timedelta(minutes=10)
    world.run(turns=30, until=lambda w: len(w.serving()) == 1 and len(w.active()) == 2)
    world.now = make.start + timedelta(minutes=15)
    world.run(turns=10)
    assert len(world.serving()) == 1
    assert len(world.active()) == 1
    assert world.reason("Reconciling") == "WaitingForWindow"
    world.now = make.start + timedelta(days=1, minutes=10)
    world.run(until=lambda w: w.finished())


def test_a_window_that_does_not_exist_stalls_and_changes_nothing(make):
    world = make.world(windowed(make, timeZone="Mars/Olympus"))
    world.run(turns=5)
    assert world.reason("Stalled") == "InvalidInput"
    assert "spec.rollout.windows[0].timeZone: 'Mars/Olympus'" in world.message("Stalled")
    assert world.last.actions == ()


def test_another_port_waits_for_the_window_too(make):
    world = make.world(windowed(make))
    world.run(turns=15)
    world.now = make.start + timedelta(minutes=10)
    world.run(until=lambda w: w.finished())
    world.now = make.start + timedelta(hours=1)
    world.edit(world.builder.with_field("serving", {"port": 8001}))
    world.run(turns=10)
    assert {n.assigned.serving.port for n in world.nodes} == {None}
    world.now = make.start + timedelta(days=1, minutes=10)
    world.run(turns=10)
    assert {n.assigned.serving.port for n in world.nodes} == {8001}
