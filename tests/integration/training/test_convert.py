"""The converter as its users see it: what learns, what is refused, batches, types. The operators: tests/integration/training."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.training.convert import differentiable, unsupported, with_parameters


def values(*shape, seed=0, dtype=np.float32, scale=0.3):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def made(nodes, tensors, *, x=("n", 6), x_type=TensorProto.FLOAT, outputs=("y",), opset=17, functions=(), domains=()):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", x_type, list(x))],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def cnn(batch="n"):
    tensors = {
        "w1": values(8, 1, 3, 3), "gamma": values(8) + 1, "beta": values(8), "mean": values(8),
        "var": np.abs(values(8)) + 0.5, "w2": values(8, 2, 3, 3), "b2": values(8), "w3": values(10, 128),
        "b3": values(10), "epsilon": np.float32(1e-3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["b"], "bn"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("Conv", ["c", "w2", "b2"], ["d"], "conv2", pads=[1, 1, 1, 1], group=4),
        helper.make_node("Add", ["d", "c"], ["e"], "residual"),
        helper.make_node("MaxPool", ["e"], ["f"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["f"], ["g"], "flat"),
        helper.make_node("Gemm", ["g", "w3", "b3"], ["h"], "fc", transB=1),
        helper.make_node("Add", ["h", "epsilon"], ["y"], "shift"),
    ]
    return made(nodes, tensors, x=(batch, 1, 8, 8))


def run(model, x):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def test_a_small_cnn_answers_as_onnxruntime_does_and_has_gradients_for_all_it_learns():
    import jax

    model, x = cnn(), values(5, 1, 8, 8, seed=3)
    f = differentiable(model)
    assert f.inputs == ("x",)
    assert f.outputs == ("y",)
    np.testing.assert_allclose(jax.jit(f.apply)(f.parameters, {"x": x})["y"], run(model, x)[0], atol=2e-6)
    gradients = jax.jit(jax.grad(lambda p: (f.apply(p, {"x": x})["y"] ** 2).sum()))(f.parameters)
    assert set(gradients) == {"w1", "gamma", "beta", "w2", "b2", "w3", "b3"}
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients.values())


def test_statistics_scalars_and_masks_do_not_learn():
    tensors = {
        "w": values(6, 6), "mask": np.where(np.tri(6) > 0, 0, -np.inf).astype(np.float32),
        "soft": np.where(np.tri(6) > 0, 0, -1e9).astype(np.float32), "one": np.ones(1, np.float32),
        "indices": np.arange(6), "unused": values(3),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "mask"], ["b"]),
        helper.make_node("Add", ["b", "soft"], ["c"]),
        helper.make_node("Mul", ["c", "one"], ["y"]),
    ]
    assert list(differentiable(made(nodes, tensors, x=("n", 6, 6))).parameters) == ["w"]


def test_weights_are_found_behind_nodes_that_move_or_cast_them():
    tensors = {"w": values(4, 6, dtype=np.float16), "shape": np.asarray([6, 4])}
    nodes = [
        helper.make_node("Cast", ["w"], ["w32"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["w32"], ["t"], perm=[1, 0]),
        helper.make_node("Reshape", ["t", "shape"], ["r"]),
        helper.make_node("MatMul", ["x", "r"], ["y"]),
    ]
    model = made(nodes, tensors)
    f = differentiable(model)
    assert f.parameters["w"].dtype == np.float32
    x = values(2, 6, seed=1)
    np.testing.assert_allclose(f.apply(f.parameters, {"x": x})["y"], run(model, x)[0], atol=1e-6)


def test_trainable_narrows_what_learns():
    f = differentiable(cnn(), trainable=lambda name: name.startswith("w"))
    assert set(f.parameters) == {"w1", "w2", "w3"}
    with pytest.raises(InputError, match="'b2' is no parameter"):
        f.apply({"b2": values(8)}, {"x": values(1, 1, 8, 8)})


def test_a_model_with_a_fixed_batch_learns_in_larger_ones():
    import jax

    model, x = cnn(batch=1), values(6, 1, 8, 8, seed=4)
    f = differentiable(model)
    want = np.concatenate([run(model, x[i : i + 1])[0] for i in range(6)])
    np.testing.assert_allclose(jax.jit(f.apply)(f.parameters, {"x": x})["y"], want, atol=2e-6)


def test_rows_that_do_not_fill_the_fixed_batch_are_refused():
    f = differentiable(cnn(batch=4))
    with pytest.raises(InputError, match="6 rows for a model whose batch is 4"):
        f.apply(f.parameters, {"x": values(6, 1, 8, 8)})


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_learnt_in_float32_and_written_back_in_their_own_type(dtype):
    tensors = {"w": values(6, 4, dtype=dtype)}
    x_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = made([helper.make_node("MatMul", ["x", "w"], ["y"])], tensors, x_type=x_type)
    f = differentiable(model)
    assert f.parameters["w"].dtype == np.float32
    y = f.apply(f.parameters, {"x": values(2, 6, dtype=dtype)})["y"]
    assert y.dtype == np.float32
    changed = with_parameters(model, {"w": f.parameters["w"] * 2})
    back = numpy_helper.to_array(changed.graph.initializer[0])
    assert back.dtype == dtype
    np.testing.assert_allclose(back, tensors["w"] * 2, rtol=1e-3)


def test_with_parameters_changes_only_what_it_is_given_and_not_the_model():
    model = cnn()
    before = model.SerializeToString(deterministic=True)
    changed = with_parameters(model, {"w3": np.zeros((10, 128), np.float32)})
    assert model.SerializeToString(deterministic=True) == before
    same = {t.name for t, u in zip(model.graph.initializer, changed.graph.initializer, strict=True) if t == u}
    assert same == {t.name for t in model.graph.initializer} - {"w3"}
    assert differentiable(changed).parameters["w3"].max() == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("nobody", np.zeros(3), "no float initializer 'nobody'"),
        ("w3", np.zeros((3, 3)), r"shape \[3, 3\], but the model's is \[10, 128\]"),
        ("b3", np.full(10, np.nan), "no longer finite"),
        ("b3", np.full(10, 1e300), "no longer finite in FLOAT"),
    ],
)
def test_with_parameters_refuses_what_does_not_fit(name, value, message):
    with pytest.raises(InputError, match=message):
        with_parameters(cnn(), {name: value})


def test_all_operators_without_a_conversion_are_named_at_once():
    nodes = [
        helper.make_node("Bernoulli", ["x"], ["a"], "coin"),
        helper.make_node("Add", ["a", "a"], ["b"], "fine"),
        helper.make_node("Mystery", ["b"], ["c"], "riddle", domain="com.example"),
        helper.make_node("NonMaxSuppression", ["c", "c"], ["y"]),
    ]
    model = made(nodes, {}, domains=("com.example",))
    named = unsupported(model)
    assert [n.split(":")[0] for n in named] == [
        "node 'coin' (Bernoulli)", "node 'riddle' (Mystery)", "node #3 (NonMaxSuppression)",
    ]  # fmt: skip
    assert "com.example.Mystery" in named[1]
    with pytest.raises(InputError, match="3 of its nodes cannot be differentiated: node 'coin'") as caught:
        differentiable(model)
    assert caught.value.reason == "NotSupported"


def test_shapes_that_depend_on_the_inputs_values_are_named_before_any_work():
    nodes = [
        helper.make_node("NonZero", ["x"], ["z"], "found"),
        helper.make_node("Relu", ["z"], ["r"], "after"),
        helper.make_node("Reshape", ["x", "s"], ["y"], "reshape"),
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["c"], ["s"], keepdims=1, axes=[0]),
    ]
    nodes = [nodes[0], nodes[1], nodes[3], nodes[4], nodes[2]]
    named = unsupported(made(nodes, {}, outputs=("y", "r")))
    assert [n.split(":")[0] for n in named] == ["node 'found' (NonZero)", "node 'reshape' (Reshape)"]
    assert "must be known before" in named[1]


def test_shape_arithmetic_of_a_free_batch_stays_known():
    tensors = {"zero": np.asarray([0]), "two": np.asarray([2]), "minus": np.asarray([-1]), "half": np.asarray([2])}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Mul", ["n", "two"], ["n2"]),
        helper.make_node("Concat", ["n2", "minus"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    f = differentiable(made(nodes, tensors))
    for rows in (1, 3):
        assert f.apply({}, {"x": values(rows, 6)})["y"].shape == (2 * rows, 3)


def test_local_functions_are_inlined():
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = made(
        [helper.make_node("Twice", ["x"], ["y"], domain="local")], {}, functions=[function], domains=("local",)
    )
    assert unsupported(model) == ()
    x = values(2, 6)
    np.testing.assert_allclose(differentiable(model).apply({}, {"x": x})["y"], 2 * x)


def test_functions_that_call_themselves_are_refused():
    function = helper.make_function(
        "local", "Again", ["a"], ["b"], [helper.make_node("Again", ["a"], ["b"], domain="local")],
        [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
    )  # fmt: skip
    model = made(
        [helper.make_node("Again", ["x"], ["y"], domain="local")], {}, functions=[function], domains=("local",)
    )
    with pytest.raises(InputError, match="call themselves"):
        unsupported(model)


def test_a_missing_initializer_is_named_with_its_node():
    model = made([helper.make_node("MatMul", ["x", "gone"], ["y"], "fc")], {})
    with pytest.raises(InputError, match=r"node 'fc' \(MatMul\): nothing makes its input 'gone'"):
        differentiable(model)


def test_a_missing_output_is_an_input_error():
    model = made([helper.make_node("Relu", ["x"], ["other"])], {})
    with pytest.raises(InputError, match="'y'"):
        differentiable(model)


def test_shapes_that_do_not_fit_name_the_node_and_the_shapes():
    model = made([helper.make_node("MatMul", ["x", "w"], ["y"], "fc")], {"w": values(5, 5)})
    with pytest.raises(InputError, match=r"node 'fc' \(MatMul\).*float32\[2, 6\], float32\[5, 5\]"):
        differentiable(model)


def test_deeply_nested_graphs_are_refused():
    then = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "leaf", [],
                             [helper.make_tensor_value_info("o", 1, None)])  # fmt: skip
    for _ in range(20):
        node = helper.make_node("If", ["c"], ["o"], then_branch=then, else_branch=then)
        then = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("o", 1, None)])
        # Two branches would double the size each time.
        del then.node[0].attribute[1]
    node = helper.make_node("If", ["c"], ["y"], "deep", then_branch=then, else_branch=then)
    model = made([node], {"c": np.asarray(True)})
    assert "nested" in unsupported(model)[0]


def test_constants_of_an_absurd_size_are_refused():
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"], "bomb"),
        helper.make_node("Add", ["x", "big"], ["y"]),
    ]
    with pytest.raises(InputError, match=r"node 'bomb' \(ConstantOfShape\).*elements"):
        differentiable(made(nodes, {"s": np.asarray([1 << 20, 1 << 20])}))


def test_products_of_constants_that_explode_take_no_memory():
    # 2¹³ · 2¹³ · 2¹³ elements, were they computed while the model is judged.
    tensors = {"a": values(1 << 13, 1, 1), "b": values(1, 1 << 13, 1), "c": values(1, 1, 1 << 13)}
    nodes = [
        helper.make_node("Equal", ["a", "b"], ["d"]),
        helper.make_node("Equal", ["b", "c"], ["e"]),
        helper.make_node("Or", ["d", "e"], ["f"]),
        helper.make_node("Cast", ["f"], ["g"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["g"], ["h"], keepdims=0),
        helper.make_node("Add", ["x", "h"], ["y"]),
    ]
    assert unsupported(made(nodes, tensors)) == ()


def test_strings_and_sequences_as_inputs_are_refused():
    model = made([helper.make_node("Identity", ["x"], ["y"])], {}, x_type=TensorProto.STRING)
    with pytest.raises(InputError, match="input 'x'"):
        unsupported(model)
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    with pytest.raises(InputError, match="input 'x' is no tensor"):
        unsupported(model)


def test_feeds_are_checked():
    f = differentiable(cnn())
    with pytest.raises(InputError, match="no values for the input 'x'"):
        f.apply(f.parameters, {})
    with pytest.raises(InputError, match=r"node 'conv1' \(Conv\)"):
        f.apply(f.parameters, {"x": values(2, 3, 8, 8)})


def test_the_same_model_gives_the_same_numbers_and_parameters_in_the_same_order():
    import jax

    x = values(3, 1, 8, 8)
    first, second = differentiable(cnn()), differentiable(cnn())
    assert list(first.parameters) == list(second.parameters)
    a, b = (np.asarray(jax.jit(f.apply)(f.parameters, {"x": x})["y"]) for f in (first, second))
    assert a.tobytes() == b.tobytes()


def test_importing_the_converter_imports_no_jax():
    code = "import sys, edgemodel_compressor.training.convert; print('jax' in sys.modules)"
    path = ":".join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.strip() == "False"


def test_every_operator_that_is_converted_exists_in_onnx():
    from edgemodel_compressor.training.convert import OPS

    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if not s.domain}
    ours = {name for name in OPS if ":" not in name} - {"SimplifiedLayerNormalization"}  # onnxruntime's
    assert ours <= known
    assert len(ours) > 140
