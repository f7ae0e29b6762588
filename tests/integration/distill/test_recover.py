"""Recovery: what was pruned stays zero, exactly as much as was asked; with Gradual too, and with Channels."""

from __future__ import annotations

import numpy as np
import pytest

from edgemodel_api.edgemodel import PruneStep
from edgemodel_api.errors import InputError
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.weights import sparsity_of, weights

pytest.importorskip("jax")
from edgemodel_compressor.training.recover import check, recover


def step(schedule="OneShot", **kw):
    wanted = {"epochs": 2, "batchSize": 16, "learningRate": "0.01", "schedule": schedule}
    return PruneStep.model_validate({"sparsity": "75%", **kw, "recover": wanted})


@pytest.fixture
def run(tmp_path, silent):
    def run(teacher, model, one, data, folder="w"):
        return recover(teacher, model, one, data=data, work_dir=tmp_path / folder, seed=0, progress=silent)

    return run


def agreement(build, model, teacher):
    x = np.random.default_rng(9).normal(size=(300, 6)).astype("f4")
    return float((build.run(model, x=x)["y"].argmax(1) == build.run(teacher, x=x)["y"].argmax(1)).mean())


def test_zeros_stay_zero_and_the_rest_learns(build, run):
    teacher, one, data = build.mlp(), step(), build.rows(300)
    pruned = prune(teacher, one).model
    found, notes = run(teacher, pruned, one, data)
    for name in ("w1", "w2", "w3"):
        before, after = build.tensor(pruned, name), build.tensor(found, name)
        assert np.array_equal(before == 0, after == 0)
        assert not np.array_equal(before, after)
    assert agreement(build, found, teacher) > agreement(build, pruned, teacher)
    assert "learned again after pruning: epoch" in notes[0]
    assert run(teacher, pruned, one, data, folder="b")[0].SerializeToString() == found.SerializeToString()


@pytest.mark.parametrize("kind", [{}, {"granularity": "Global"}, {"sparsity": None, "pattern": "2:4"}])
def test_gradual_ends_at_the_target(build, run, kind):
    teacher, one = build.mlp(), step("Gradual", **kind)
    found, notes = run(teacher, teacher, one, build.rows(100))
    assert sparsity_of(weights(found)) == sparsity_of(weights(prune(teacher, one).model))
    # Pruning it again changes nothing: the masks were its own.
    assert prune(found, one).model.SerializeToString() == found.SerializeToString()
    assert "while sparsity grew" in notes[0]


@pytest.mark.parametrize("schedule", ["OneShot", "Gradual"])
def test_channels(build, run, schedule):
    teacher, one = build.mlp(), step(schedule, sparsity="50%", structure="Channels")
    pruned = prune(teacher, one).model
    found, _ = run(teacher, teacher if schedule == "Gradual" else pruned, one, build.rows(100))
    shapes = [{t.name: tuple(t.dims) for t in m.graph.initializer} for m in (pruned, found)]
    assert shapes[0] == shapes[1]
    assert shapes[0]["w1"] == (6, 8)
    assert sparsity_of(weights(found)) == 0


def test_zeros_of_an_earlier_step_stay(build, run):
    """Also while another step's sparsity grows."""
    teacher = build.mlp()
    earlier = prune(teacher, PruneStep(sparsity="30%")).model
    found, _ = run(teacher, earlier, step("Gradual", sparsity="50%"), build.rows(60))
    for name in ("w1", "w2", "w3"):
        assert (build.tensor(found, name)[build.tensor(earlier, name) == 0] == 0).all()


def test_nothing_to_recover(build, run):
    with pytest.raises(InputError, match="not set"):
        run(build.mlp(), build.mlp(), PruneStep(sparsity="50%"), build.rows())


def test_operators_that_cannot_learn(build):
    from onnx import TensorProto, helper

    model = build.mlp()
    model.graph.node.append(build.node("NonZero", ["l"], "nz"))
    model.graph.output.append(helper.make_tensor_value_info("nz", TensorProto.INT64, [2, "k"]))
    with pytest.raises(InputError, match="nonzero_nz"):
        check(model)
