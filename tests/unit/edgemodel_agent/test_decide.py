"""The decision table, and what must hold in every state."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_agent import decide as d
from edgemodel_agent.state import Retry, TrialState
from edgemodel_api.edgemodel import Serving, ServingMode
from edgemodel_api.edgenode import AssignedTrial, Swap, TrialResult


def facts(build, present="", **fields):
    if "digest" in fields:
        fields["digest"] = build.digest(fields["digest"])
    return d.Facts(present=frozenset(build.digest(n) for n in present), **fields)


def retry(build, name, *, due_in):
    return Retry(
        digest=build.digest(name),
        count=3,
        at=build.start,
        not_before=build.at(due_in),
        reason="DownloadFailed",
        message="x",
    )


CASES = {
    "new model is fetched": lambda b: (b.assigned("A"), b.state(), facts(b), [d.Fetch(b.target("A"))]),
    "download under way: wait": lambda b: (b.assigned("A"), b.state(), facts(b, work=d.Work.FETCH, digest="A"), []),
    "download failed: wait for the back-off": lambda b: (
        b.assigned("A"), b.state(retry=retry(b, "A", due_in=5)), facts(b), []),
    "back-off over: fetch again": lambda b: (
        b.assigned("A"), b.state(retry=retry(b, "A", due_in=0)), facts(b), [d.Fetch(b.target("A"))]),
    "the clock was put back by hours: do not wait for hours": lambda b: (
        b.assigned("A"), b.state(retry=retry(b, "A", due_in=7200)), facts(b), [d.Fetch(b.target("A"))]),
    "prefetch stops after the download": lambda b: (
        b.assigned("A", swap=Swap.PREFETCH), b.state(), facts(b, "A"), []),
    "prefetch of B leaves A alone": lambda b: (
        b.assigned("B", swap=Swap.PREFETCH), b.state("A"), facts(b, "AB", alive=True), []),
    "downloaded: check": lambda b: (b.assigned("A"), b.state(), facts(b, "A"), [d.Check(b.target("A"))]),
    "a trial is timing: the check waits": lambda b: (b.assigned("A"), b.state(), facts(b, "A", quiet=False), []),
    "serving: nothing to do": lambda b: (b.assigned("A"), b.state("A"), facts(b, "A", alive=True), []),
    "serving, recheck due": lambda b: (
        b.assigned("A"), b.state("A"), facts(b, "A", alive=True, recheck_due=True), [d.Recheck()]),
    "recheck due, but a start is under way": lambda b: (
        b.assigned("A"), b.state("A"), facts(b, "A", alive=True, recheck_due=True, upkeep=d.Work.START), []),
    "failed at this attempt: leave it": lambda b: (
        b.assigned("B"), b.state("A", failure=b.failure("B")), facts(b, "AB", alive=True), []),
    "failed, and not even here: leave it": lambda b: (
        b.assigned("B"), b.state("A", failure=b.failure("B")), facts(b, "A", alive=True), []),
    "failed at attempt 1, now 2: again": lambda b: (
        b.assigned("B", attempt=2), b.state("A", failure=b.failure("B")), facts(b, "AB", alive=True), [d.Check(b.target("B"))]),
    "another digest failed: no matter": lambda b: (
        b.assigned("C"), b.state("A", failure=b.failure("B")), facts(b, "AC", alive=True), [d.Check(b.target("C"))]),
    "another agent's process serves: replace it, before a recheck": lambda b: (
        b.assigned("A"), b.state("A"), facts(b, "A", alive=True, borrowed=True, recheck_due=True),
        [d.Replace(b.deployed("A"))]),
    "its replacement starts: wait": lambda b: (
        b.assigned("A"), b.state("A"), facts(b, "A", alive=True, borrowed=True, upkeep=d.Work.START), []),
    "its replacement died just now: wait for the back-off": lambda b: (
        b.assigned("A"), b.state("A", crashes=2, last_crash=b.start), facts(b, "A", alive=True, borrowed=True), []),
    "its file is damaged: fetch it, while it still serves": lambda b: (
        b.assigned("A"), b.state("A"), facts(b, alive=True, borrowed=True), [d.Fetch(b.target("A"))]),
    "borrowed, and another target is wanted: both": lambda b: (
        b.assigned("B"), b.state("A"), facts(b, "AB", alive=True, borrowed=True),
        [d.Replace(b.deployed("A")), d.Check(b.target("B"))]),
    "borrowed, and nobody wants it any more": lambda b: (
        None, b.state("A"), facts(b, "A", alive=True, borrowed=True), [d.Remove()]),
    "server is dead: start it": lambda b: (b.assigned("A"), b.state("A"), facts(b, "A"), [d.Restart(b.deployed("A"))]),
    "first death: at once": lambda b: (
        b.assigned("A"), b.state("A", crashes=1, last_crash=b.start), facts(b, "A"), [d.Restart(b.deployed("A"))]),
    "second death: wait half a second": lambda b: (
        b.assigned("A"), b.state("A", crashes=2, last_crash=b.start), facts(b, "A"), []),
    "third death, nothing to go back to: keep trying": lambda b: (
        b.assigned("A"), b.state("A", crashes=3, last_crash=b.at(-1)), facts(b, "A"), [d.Restart(b.deployed("A"))]),
    "tenth death, nothing to go back to: a minute's wait": lambda b: (
        b.assigned("A"), b.state("A", crashes=10, last_crash=b.at(-59)), facts(b, "A"), []),
    "dead while B downloads: start A": lambda b: (
        b.assigned("B"), b.state("A"), facts(b, "A", work=d.Work.FETCH, digest="B"), [d.Restart(b.deployed("A"))]),
    "dead while B is checked: start A": lambda b: (
        b.assigned("B"), b.state("A"), facts(b, "AB", work=d.Work.CHECK, digest="B"), [d.Restart(b.deployed("A"))]),
    "starting already": lambda b: (b.assigned("A"), b.state("A"), facts(b, "A", upkeep=d.Work.START), []),
    "third death with a previous one: back": lambda b: (
        b.assigned("B"), b.state("B", "A", crashes=3, last_crash=b.start, trouble="exit code 1"), facts(b, "AB"), ["RollBack"]),
    "third failed recheck: back": lambda b: (
        b.assigned("B"), b.state("B", "A", bad_rechecks=3), facts(b, "AB", alive=True), ["RollBack"]),
    "third death, previous one lost: keep trying": lambda b: (
        b.assigned("B"), b.state("B", "A", crashes=3, last_crash=b.at(-9)), facts(b, "B"), [d.Restart(b.deployed("B"))]),
    "A dies while B is wanted: no going back behind A": lambda b: (
        b.assigned("B"), b.state("A", "0", crashes=3, last_crash=b.at(-9), failure=b.failure("B")), facts(b, "A0"),
        [d.Restart(b.deployed("A"))]),
    "files of the running one were damaged: fetch": lambda b: (
        b.assigned("A"), b.state("A"), facts(b), [d.Fetch(b.target("A"))]),
    "damaged while it serves: leave it until it must start": lambda b: (
        b.assigned("A"), b.state("A"), facts(b, alive=True), []),
    "running and target both missing, running failed last: the target's turn": lambda b: (
        b.assigned("B"), b.state("A", retry=retry(b, "A", due_in=0)), facts(b), [d.Fetch(b.target("B"))]),
    "unassigned: remove": lambda b: (None, b.state("A"), facts(b, "A", alive=True), [d.Remove()]),
    "unassigned during a download: cancel first": lambda b: (
        None, b.state(), facts(b, work=d.Work.FETCH, digest="A"), [d.Cancel(), d.Remove()]),
    "another target during a download: cancel": lambda b: (
        b.assigned("B"), b.state("A"), facts(b, "A", alive=True, work=d.Work.FETCH, digest="C"), [d.Cancel()]),
    "another target during a check: cancel": lambda b: (
        b.assigned("B"), b.state("A"), facts(b, "AB", alive=True, work=d.Work.CHECK, digest="C"), [d.Cancel()]),
    "back to A during the check of B: cancel": lambda b: (
        b.assigned("A"), b.state("A"), facts(b, "AB", alive=True, work=d.Work.CHECK, digest="B"), [d.Cancel()]),
    "only prefetch now, during the check: cancel": lambda b: (
        b.assigned("B", swap=Swap.PREFETCH), b.state("A"), facts(b, "AB", alive=True, work=d.Work.CHECK, digest="B"), [d.Cancel()]),
    "another fixed port: check and switch to it": lambda b: (
        b.assigned("A", serving=Serving(port=9000)), b.state("A"), facts(b, "A", alive=True), [d.Check(b.target("A"))]),
    "the same fixed port": lambda b: (
        b.assigned("A", serving=Serving(port=8000)), b.state("A"), facts(b, "A", alive=True), []),
    "now as files": lambda b: (
        b.assigned("A", serving=Serving(mode=ServingMode.FILES)), b.state("A"), facts(b, "A", alive=True), [d.Check(b.target("A"))]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_table(build, name):
    desired, state, so, expected = CASES[name](build)
    actions = d.decide(desired, state, so, build.start)
    if expected == ["RollBack"]:
        (action,) = actions
        assert isinstance(action, d.RollBack)
        assert (action.failure.digest, action.failure.attempt) == (desired.target.digest, desired.attempt)
        assert "3" in action.failure.message
    else:
        assert list(actions) == expected


letters = st.sampled_from("ABC")
maybe = st.sampled_from(["", "A", "B", "C"])


@st.composite
def situations(draw):
    """Any local state beside any wish: letters and flags, built by the test."""
    return {
        "desired": draw(letters),
        "attempt": draw(st.integers(1, 2)),
        "swap": draw(st.sampled_from(Swap)),
        "running": draw(maybe),
        "previous": draw(maybe),
        "failed": draw(maybe),
        "crashes": draw(st.integers(0, 5)),
        "bad": draw(st.integers(0, 4)),
        "retry": draw(st.none() | st.tuples(letters, st.integers(-5, 90))),
        "present": "".join(draw(st.sets(letters))),
        "work": draw(st.none() | st.tuples(st.sampled_from([d.Work.FETCH, d.Work.CHECK]), letters)),
        "upkeep": draw(st.none() | st.sampled_from([d.Work.START, d.Work.RECHECK])),
        "alive": draw(st.booleans()),
        "quiet": draw(st.booleans()),
        "due": draw(st.booleans()),
        "borrowed": draw(st.booleans()),
    }


def built(build, s):
    desired = build.assigned(s["desired"], attempt=s["attempt"], swap=s["swap"])
    state = build.state(
        s["running"],
        s["previous"] if s["running"] else "",
        failure=build.failure(s["failed"]) if s["failed"] else None,
        crashes=s["crashes"],
        last_crash=build.start if s["crashes"] else None,
        bad_rechecks=s["bad"],
        retry=retry(build, s["retry"][0], due_in=s["retry"][1]) if s["retry"] else None,
    )
    so = facts(
        build,
        s["present"],
        work=s["work"][0] if s["work"] else None,
        digest=s["work"][1] if s["work"] else "",
        upkeep=s["upkeep"],
        alive=s["alive"] and bool(s["running"]),
        quiet=s["quiet"],
        recheck_due=s["due"],
        borrowed=s["borrowed"] and s["alive"] and bool(s["running"]),
    )
    return desired, state, so


@given(situation=situations())
def test_what_holds_in_every_state(build, situation):
    desired, state, so = built(build, situation)
    actions = d.decide(desired, state, so, build.start)
    kinds = [type(a) for a in actions]
    assert actions == d.decide(desired, state, so, build.start)
    assert len(set(kinds)) == len(kinds)
    latched = d.failed(desired, state)
    for action in actions:
        match action:
            case d.Check(target):
                assert target == desired.target
                assert target.digest in so.present, "checked without its files"
                assert not latched, "a failed target was tried again at the same attempt"
                assert desired.swap is Swap.ACTIVATE
                assert so.work is None
                assert so.quiet
            case d.Fetch(target):
                assert target.digest not in so.present
                assert so.work is None
                assert not (
                    latched and target == desired.target and (not state.running or target != state.running.target)
                )
            case d.Restart(deployed):
                assert not so.alive, "two servers of one variant"
                assert so.upkeep is None
                assert deployed == state.running
            case d.Replace(deployed):
                assert so.alive
                assert so.borrowed, "a server of our own was replaced"
                assert so.upkeep is None
                assert d.Recheck not in kinds, "two jobs for one server"
                assert deployed == state.running
            case d.RollBack(failure):
                assert state.previous is not None
                assert state.previous.target.digest in so.present
                assert failure.digest == desired.target.digest == state.running.target.digest
            case d.Remove():
                pytest.fail("an assigned model was removed")
    assert not {d.Fetch, d.Check} <= set(kinds)
    if d.RollBack in kinds:
        assert not {d.Fetch, d.Check, d.Restart, d.Recheck} & set(kinds)


class World:
    """A node in miniature: does at once what `decide` says. Variants in `bad` fail their check, in `dying` they crash."""

    def __init__(self, build, bad, dying):
        self.build, self.bad, self.dying = build, bad, dying
        self.state = build.state()
        self.present = set()
        self.alive = False
        self.clock = 0.0
        self.outages = 0

    def step(self, desired, link):
        self.clock += 70
        now = self.build.at(self.clock)
        so = d.Facts(present=frozenset(self.present), alive=self.alive)
        before = self.state.running
        for action in d.decide(desired, self.state, so, now):
            match action:
                case d.Fetch(target) if link:
                    self.present.add(target.digest)
                case d.Check(target) if target.digest in {self.build.digest(x) for x in self.bad}:
                    failure = self.build.failure("A").replace(digest=target.digest, attempt=desired.attempt)
                    self.state = self.state.replace(failure=failure)
                case d.Check(target):
                    old = self.state.running if self.state.running and self.state.running.target != target else None
                    new = self.build.deployed("A").replace(target=target)
                    self.state = self.state.replace(running=new, previous=old, failure=None, crashes=0)
                    self.alive = True
                case d.Restart():
                    self.alive = True
                case d.RollBack(failure):
                    self.state = self.state.replace(
                        running=self.state.previous, previous=None, failure=failure, crashes=0
                    )
                    self.alive = False
        if self.alive and self.state.running.target.digest in {self.build.digest(x) for x in self.dying}:
            self.alive = False
            self.state = self.state.replace(crashes=self.state.crashes + 1, last_crash=now)
        return before


@given(
    wishes=st.lists(st.tuples(letters, st.integers(1, 2), st.booleans()), min_size=1, max_size=8),
    bad=st.sets(letters, max_size=1),
    dying=st.sets(letters, max_size=1),
)
def test_a_good_target_always_ends_up_serving_and_a_bad_one_never_takes_the_place_of_a_good_one(
    build, wishes, bad, dying
):
    world = World(build, bad, dying - bad)
    good = None
    for name, attempt, link in [*wishes, (wishes[-1][0], 3, True)]:
        desired = build.assigned(name, attempt=attempt)
        for _ in range(12):
            world.step(desired, link)
        running = world.state.running
        if name not in world.bad | world.dying and link:
            assert running is not None
            assert running.target == desired.target
            assert world.alive
            good = name
        if good is not None:
            assert running is not None
            assert world.alive, f"{good} served, {name} came, and now nothing does"


@pytest.mark.parametrize(
    ("count", "seconds"), [(0, 0), (1, 0.5), (2, 1), (3, 2), (7, 32), (8, 60), (500, 60)], ids=lambda v: f"{v:g}"
)
def test_waits_double_up_to_a_limit(count, seconds):
    assert d.doubled(timedelta(seconds=0.5), count, timedelta(seconds=60)).total_seconds() == seconds


def trial(build, names, results="", *, failed="", present="", **fields):
    desired = AssignedTrial(
        namespace="default", name="m", revision="r", candidates=tuple(build.target(n) for n in names)
    )
    state = TrialState(
        namespace="default",
        name="m",
        revision="r",
        results=tuple(TrialResult(digest=build.digest(n), variant=n, passed=n not in failed) for n in results + failed),
    )
    return d.decide_trial(desired, state, facts(build, present, **fields), build.start)


TRIALS = {
    "the source comes first": lambda b: (trial(b, "SAB"), d.Fetch(b.target("S"))),
    "then it is measured": lambda b: (trial(b, "SAB", present="S"), d.Measure(b.target("S"))),
    "then the next one is fetched": lambda b: (trial(b, "SAB", "S", present="S"), d.Fetch(b.target("A"))),
    "and measured beside the source": lambda b: (trial(b, "SAB", "S", present="SA"), d.Measure(b.target("A"))),
    "not without the source": lambda b: (trial(b, "SAB", "S", present="A"), d.Fetch(b.target("S"))),
    "unless the source failed itself": lambda b: (trial(b, "SAB", failed="S", present="A"), d.Measure(b.target("A"))),
    "not while something else works": lambda b: (trial(b, "SAB", present="S", quiet=False), None),
    "one at a time": lambda b: (trial(b, "SAB", present="S", work=d.Work.MEASURE), None),
    "all have results": lambda b: (trial(b, "SAB", "SA", failed="B"), None),
}


@pytest.mark.parametrize("name", TRIALS)
def test_trial_table(build, name):
    got, expected = TRIALS[name](build)
    assert got == expected
