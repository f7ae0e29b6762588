"""The loop alone, on a line to be fitted: the same bytes again, killed or not; what diverges; what stays zero."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from edgemodel_api.errors import InputError

pytest.importorskip("jax")
import jax.numpy as jnp

from edgemodel_compressor.training.checkpoint import Checkpoint, content_key
from edgemodel_compressor.training.data import split
from edgemodel_compressor.training.loop import Learning, Masks, Settings, Task, steps_per_epoch
from edgemodel_compressor.training.room import Room

X = np.random.default_rng(0).normal(size=(50, 4)).astype("f4")
W = np.array([1.0, -2.0, 0.5, 3.0], "f4")
SETTINGS = Settings(epochs=4, learning_rate=0.05, batch_size=8, seed=3)


class KilledError(Exception):
    pass


def task(*, x=X, start=None, **kw):
    y = x @ W

    def loss(parameters, batch):
        error = jnp.mean(jnp.square(batch["x"] @ parameters["w"] + parameters["b"] - batch["y"]))
        return error, 1 - error

    return Task(
        start=start or {"w": np.zeros(4), "b": np.zeros(())},
        loss=loss,
        batch=lambda rows: {"x": x[rows], "y": y[rows]},
        rows=split(len(x), seed=3),
        **kw,
    )


def run(folder, one=None, settings=SETTINGS, *, report=lambda _p: None, key="k", room=None):
    learning = Learning(
        one or task(), settings, checkpoint=Checkpoint(folder, content_key(key), "t"), report=report, stage="t"
    )
    if room is not None:
        learning.fit(room)
    return learning.run()


def test_it_learns_and_says_so(tmp_path):
    seen = []
    found = run(tmp_path, settings=Settings(30, 0.2, 8, 3), report=seen.append)
    assert np.allclose(found.parameters["w"], W, atol=0.1)
    assert found.loss < 0.01 < found.history[0][1]
    assert found.loss == min(h[1] for h in found.history)
    last = seen[-1]
    assert (last.stage, last.done, last.total) == ("t", 30 * 5, 30 * 5)
    assert "after epoch 30: loss" in last.message
    assert "quality" in last.message
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def same(a, b):
    assert a.history == b.history
    assert a.epoch == b.epoch
    assert a.notes == b.notes
    for name, value in a.parameters.items():
        assert value.tobytes() == b.parameters[name].tobytes()


def test_the_same_bytes_again(tmp_path):
    same(run(tmp_path / "a"), run(tmp_path / "b"))


def test_another_seed_is_another_order(tmp_path):
    other = run(tmp_path / "b", settings=Settings(4, 0.05, 8, 4))
    assert other.history != run(tmp_path / "a").history


@pytest.mark.parametrize("at", [2, 12])
def test_killed_and_gone_on(tmp_path, at):
    def kill(progress):
        if progress.done > at and "epoch" in progress.message:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "a", report=kill)
    seen = []
    again = run(tmp_path / "a", report=seen.append)
    # Whole epochs are not learned again.
    assert seen[0].done == at // 5 * 5 + 1
    same(again, run(tmp_path / "b"))


def test_when_it_was_done_already_nothing_runs(tmp_path):
    first, seen = run(tmp_path), []
    same(first, run(tmp_path, report=seen.append))
    assert seen == []


@pytest.mark.parametrize("spoil", ["text", "epoch", "history", "best"])
def test_a_checkpoint_that_lies_is_ignored(tmp_path, spoil):
    whole = run(tmp_path / "a")
    checkpoint = Checkpoint(tmp_path / "a", content_key("k"), "t")
    if spoil == "text":
        checkpoint.path.write_text("no checkpoint" * 50)
    else:
        import jax

        # Types and shapes are the state's: the digest is right, the header is not.
        arrays = [np.zeros((), "f4"), np.zeros(4, "f4")]
        import optax

        state = optax.adam(0.1).init({"b": jnp.zeros(()), "w": jnp.zeros(4)})
        schedule = optax.adam(optax.cosine_decay_schedule(0.1, 5)).init({"b": jnp.zeros(()), "w": jnp.zeros(4)})
        assert len(jax.tree.leaves(schedule)) == len(jax.tree.leaves(state)) + 1
        leaves = [np.asarray(v) for v in jax.tree.leaves(schedule)]
        header = {"epoch": 2, "attempt": 0, "bestEpoch": -1, "history": [[1.0, 1.0, 1.0]] * 2}
        header |= {"epoch": {"epoch": 99}, "history": {"history": [["x"]] * 2}, "best": {"bestEpoch": 2}}[spoil]
        checkpoint.save(header, [*arrays, *leaves, *arrays])
    again = run(tmp_path / "a")
    assert "ignored and learning begins anew" in again.notes[0]
    assert again.parameters["w"].tobytes() == whole.parameters["w"].tobytes()


def test_of_another_key(tmp_path):
    run(tmp_path, key="a")
    assert run(tmp_path, key="b").notes == ()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_loss_that_runs_away_is_learned_more_slowly(tmp_path):
    def loss(parameters, batch):
        # Infinite as soon as the weight has moved by more than one: at rate 1 in the second step.
        w = parameters["w"]
        return jnp.where(jnp.abs(w) > 1.5, jnp.inf, jnp.square(w - 1.0)) + 0 * jnp.sum(batch["x"]), w * 0

    one = Task(
        {"w": np.zeros(())}, loss, lambda rows: {"x": X[rows]}, split(len(X), seed=0)
    )  # fmt: skip
    found = run(tmp_path, one, Settings(3, 2.0, 8, 0))
    assert np.isfinite(found.loss)
    assert "learningRate 2: it was learned with 0.2 instead" in found.notes[0]
    assert len(found.history) == 3


def hopeless(parameters, batch):
    return jnp.sum(parameters["w"]) * jnp.nan + jnp.sum(batch["x"]), jnp.zeros(())


def test_a_loss_that_is_never_finite(tmp_path):
    one = Task({"w": np.zeros(2)}, hopeless, lambda rows: {"x": X[rows]}, split(len(X), seed=0))
    with pytest.raises(InputError, match="give a smaller learningRate"):
        run(tmp_path, one)


def test_the_start_is_kept_where_nothing_better_is_learned(tmp_path):
    start = {"w": W.copy(), "b": np.zeros(())}
    found = run(tmp_path / "a", task(start=start, start_counts=True), Settings(2, 1.0, 8, 0))
    assert found.epoch == 0
    assert np.array_equal(found.parameters["w"], W)
    assert run(tmp_path / "b", task(start=start), Settings(2, 1.0, 8, 0)).epoch > 0


def test_a_batch_larger_than_the_data(tmp_path):
    assert steps_per_epoch(Settings(1, 0.1, 1000, 0), 45) == (1, 45)
    assert run(tmp_path, settings=Settings(2, 0.1, 1000, 0)).history[1][1] < 100


@pytest.mark.parametrize(
    ("batch", "unit", "rows", "wanted"),
    [(64, 1, 640, (10, 64)), (64, 5, 640, (10, 60)), (2, 5, 45, (9, 5)), (64, 8, 16, (1, 16)), (10, 1, 1, (1, 1))],
)
def test_steps(batch, unit, rows, wanted):
    assert steps_per_epoch(Settings(1, 0.1, batch, 0, unit), rows) == wanted


def test_one_row(tmp_path):
    found = run(tmp_path, task(x=X[:1]))
    assert len(found.history) == 4


def test_masks_hold_zeros(tmp_path):
    mask = np.array([True, False, True, False])
    masks = Masks(lambda _s, _p: {"w": mask}, every=10**9, settled=0)
    found = run(tmp_path, task(start={"w": np.ones(4), "b": np.zeros(())}, masks=masks, start_counts=True))
    assert np.array_equal(found.parameters["w"] == 0, ~mask)


def test_growing_masks(tmp_path):
    asked = []

    def at(step, parameters):
        asked.append(step)
        order = np.argsort(np.abs(parameters["w"]), kind="stable")
        mask = np.ones(4, dtype=bool)
        mask[order[: min(3, step // 4)]] = False
        return {"w": mask}

    found = run(
        tmp_path,
        task(start={"w": W.copy(), "b": np.zeros(())}, masks=Masks(at, every=4, settled=12), start_counts=True),
    )
    # 4 epochs of 5 steps: before each epoch, each 4 steps, after each epoch.
    assert asked == [0, 4, 5, 5, 8, 10, 10, 12, 15, 15, 16, 20]
    assert found.epoch >= 3
    assert np.count_nonzero(found.parameters["w"] == 0) == 3
    assert found.parameters["w"][3] != 0


class Few(Room):
    """So many rows at a time, whatever is free."""

    def for_step(self, batch, needed, *, unit=1):
        assert needed(batch) > 0
        assert needed(self.rows) > 0
        return self.rows


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_in_parts_learns_the_same(tmp_path, masked, rows):
    held = {"w": np.array([True, True, False, True])}
    masks = Masks(lambda _step, _p: held, every=3, settled=0) if masked else None
    whole, parts = (
        run(tmp_path / name, task(masks=masks), room=room) for name, room in (("a", Room()), ("b", Few(rows)))
    )
    assert np.allclose(whole.history, parts.history, rtol=1e-4)
    assert np.allclose(whole.parameters["w"], parts.parameters["w"], rtol=1e-4)
    assert not masked or parts.parameters["w"][2] == 0
    assert whole.notes == ()
    assert parts.notes[0].startswith(f"a step's 8 rows were learned {rows} at a time, so that they fit into memory")
    same(parts, run(tmp_path / "c", task(masks=masks), room=Few(rows)))


def test_what_a_step_takes_is_told_beforehand():
    """In a process of its own: unfolded convolutions, whose memory XLA does not tell; and of many steps as of one."""
    told, taken = json.loads(
        subprocess.run(
            [sys.executable, "-c", CONVOLUTIONS],
            env={"PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout
    )
    assert 0.5 * told < taken < told


CONVOLUTIONS = """
import json
import jax, numpy as np, psutil
from edgemodel_compressor.training.checkpoint import Checkpoint, content_key
from edgemodel_compressor.training.data import split
from edgemodel_compressor.training.loop import Learning, Settings, Task
from edgemodel_compressor.training.room import Room
from pathlib import Path
import tempfile, threading, time

rng = np.random.default_rng(0)
start = {"a": rng.normal(size=(16, 3, 3, 3)) / 5, "b": rng.normal(size=(16, 16, 3, 3)) / 12}
x = rng.normal(size=(400, 3, 96, 96)).astype("f4")

def loss(parameters, batch):
    y = batch["x"]
    for name in ("a", "b", "b", "b"):
        y = jax.nn.relu(jax.lax.conv(y, parameters[name], (1, 1), "SAME"))
    return (y**2).mean(), y.mean()

class Tell(Room):
    def for_step(self, batch, needed, *, unit=1):
        global told
        told = needed(batch)
        return batch

learning = Learning(
    Task(start=start, loss=loss, batch=lambda rows: {"x": x[rows]}, rows=split(len(x), seed=0)),
    Settings(1, 1e-3, 32, 0), checkpoint=Checkpoint(Path(tempfile.mkdtemp()), content_key("k"), "t"),
    report=lambda p: None, stage="t",
)
learning.fit(Tell())
before = peak = psutil.Process().memory_info().rss

def watch():
    global peak
    while True:
        peak = max(peak, psutil.Process().memory_info().rss)
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
learning.run()
print(json.dumps([told, peak - before]))
"""
