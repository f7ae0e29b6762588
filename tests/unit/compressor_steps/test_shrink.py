"""Channels: what goes together, and that the smaller model is the one with those channels zeroed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgemodel_api.edgemodel import Exclude, Granularity, PruneMethod, PruneStep
from edgemodel_api.errors import InputError
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.shrink import channel_groups, importance, keep_by_share, shrink, zeroed

ABSOLUTE, RELATIVE = PruneMethod.MIN_ABSOLUTE, PruneMethod.MAX_RELATIVE


class Net:
    """A graph that grows node by node; weights are drawn."""

    def __init__(self, m: Any, seed: int = 0, **options: Any) -> None:
        self.m = m
        self.rng = np.random.default_rng(seed)
        self.options = options
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}

    def w(self, *shape: int, positive: bool = False) -> str:
        name = f"w{len(self.tensors)}"
        values = self.rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        self.tensors[name] = (np.abs(values) + 0.5 if positive else values).astype(np.float32)
        return name

    def ints(self, *values: int) -> str:
        name = f"i{len(self.tensors)}"
        self.tensors[name] = np.array(values, np.int64)
        return name

    def floats(self, *values: float) -> str:
        name = f"f{len(self.tensors)}"
        self.tensors[name] = np.array(values, np.float32)
        return name

    def __call__(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        label = name or f"{op.lower()}{len(self.nodes)}"
        if any(n.name == label for n in self.nodes):
            label += f"_{len(self.nodes)}"
        made = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), made, name=label, **attributes))
        return made[0] if outputs == 1 else made

    def conv(self, x: str, c: int, out: int, *, k: int = 3, group: int = 1, bias: bool = True, name: str = "") -> str:
        extra = [self.w(out)] if bias else []
        w = self.w(out, c // group, k, k)
        return self("Conv", x, w, *extra, name=name, group=group, pads=[k // 2] * 4)

    def norm(self, x: str, c: int) -> str:
        scale, shift, mean = self.w(c, positive=True), self.w(c), self.w(c)
        return self("BatchNormalization", x, scale, shift, mean, self.w(c, positive=True))

    def dense(self, x: str, k: int, n: int, *, name: str = "") -> str:
        return self("Add", self("MatMul", x, self.w(k, n), name=name), self.w(n))

    def model(self, y: str, *, x: tuple[Any, ...]) -> Any:
        self.nodes.append(helper.make_node("Identity", [y], ["y"], name="end"))
        return self.m.model(self.nodes, self.tensors, x=x, **self.options)


def same(m: Any, made: Any, x: Any, keep: Any) -> Any:
    """The shrunk model, checked: types and shapes agree, and so do the numbers with the zeroed one's."""
    before = m.raw(made)
    small = shrink(made, keep)
    assert m.raw(made) == before
    assert m.raw(small) == m.raw(shrink(made, keep))
    onnx.shape_inference.infer_shapes(small, check_type=True, strict_mode=True, data_prop=True)
    got, want = m.run(small, x), m.run(zeroed(made, keep), x)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)
    return small


def sizes(made: Any) -> dict[str, int]:
    return {g.name: g.size for g in channel_groups(made)}


def numbers(made: Any) -> int:
    return sum(numpy_helper.to_array(t).size for t in made.graph.initializer)


def halved(m: Any, made: Any, x: Any, *, again: bool = True) -> Any:
    keep = keep_by_share(made, 0.5)
    assert keep
    small = same(m, made, x, keep)
    assert numbers(small) < numbers(made)
    if again:
        # Nothing of what stays is renamed, so the groups are the same, smaller.
        left = {n: s for n, s in sizes(small).items() if n in keep}
        assert left == {n: len(k) for n, k in keep.items() if len(k) > 1}
    return small


def test_hand_computed(m):
    """Two hidden units of three stay: the second is the weakest by its rows and columns."""
    tensors = {
        "a": np.array([[3, 1, 4], [3, 1, 4]], np.float32),
        "b": np.array([1, 2, 3], np.float32),
        "c": np.array([[2], [1], [2]], np.float32),
    }
    nodes = [m.node("Gemm", ["x", "a", "b"], "h", name="one"), m.node("MatMul", ["h", "c"], "y", name="two")]
    made = m.model(nodes, tensors, x=("n", 2))
    (group,) = channel_groups(made)
    assert (group.name, group.size, group.exact) == ("one", 3, True)
    assert [(s.weight, s.axis, s.kernel, s.output, s.classes.tolist()) for s in group.weights] == [
        ("a", 1, True, True, [0, 1, 2]),
        ("b", 0, False, False, [0, 1, 2]),
        ("c", 0, True, False, [0, 1, 2]),
    ]
    assert importance(made, group, ABSOLUTE).tolist() == [(3 + 2) / 2, (1 + 1) / 2, (4 + 2) / 2]
    assert importance(made, group, RELATIVE).tolist() == [(3 / 4 + 1) / 2, (1 / 4 + 1 / 2) / 2, 1]
    keep = keep_by_share(made, 0.7)
    assert keep["one"].tolist() == [0, 2]
    small = same(m, made, np.array([[1, 2]], np.float32), keep)
    assert m.tensor(small, "a").tolist() == [[3, 4], [3, 4]]
    assert m.tensor(small, "b").tolist() == [1, 3]
    assert m.tensor(small, "c").tolist() == [[2], [2]]
    # 1·3 + 2·3 + 1 = 10; 1·4 + 2·4 + 3 = 15; 2·10 + 2·15.
    assert m.run(small, np.array([[1, 2]], np.float32)).tolist() == [[50]]


def test_of_equal_channels_the_first_go(m):
    nodes = [m.node("MatMul", ["x", "a"], "h", name="one"), m.node("MatMul", ["h", "c"], "y", name="two")]
    made = m.model(nodes, {"a": np.ones((2, 5), np.float32), "c": np.ones((5, 1), np.float32)}, x=("n", 2))
    for granularity in (Granularity.TENSOR, Granularity.GLOBAL):
        assert keep_by_share(made, 0.4, granularity=granularity)["one"].tolist() == [3, 4]
        assert keep_by_share(made, 0, granularity=granularity)["one"].tolist() == [4]
        assert keep_by_share(made, 1, granularity=granularity)["one"].tolist() == [0, 1, 2, 3, 4]


def test_large_convolutions_keep_multiples_of_four(m):
    net = Net(m)
    h = net("Relu", net.conv("x", 2, 32, name="large"))
    h = net("Relu", net.conv(h, 32, 18, name="odd"))
    h = net("Relu", net.conv(h, 18, 12, name="small"))
    h = net("Flatten", net("GlobalAveragePool", h))
    made = net.model(net.dense(net("Relu", net.dense(h, 12, 32, name="dense")), 32, 3), x=("n", 2, 4, 4))
    assert {n: len(k) for n, k in keep_by_share(made, 0.8).items()} == {
        "large": 28,
        "odd": 14,
        "small": 10,
        "dense": 26,
    }
    for share in (0.1, 0.4, 0.6, 0.9, 0.97):
        keep = keep_by_share(made, share, granularity=Granularity.GLOBAL)
        assert len(keep["large"]) % 4 == 0
        assert 0 <= sum(len(k) for k in keep.values()) - round(94 * share) < 4


def test_cnn_with_residual_and_flatten(m):
    made = m.cnn()
    assert sizes(made) == {"conv1": 8}
    small = halved(m, made, m.normal(2, 1, 8, 8))
    assert m.tensor(small, "w2").shape == (4, 4, 3, 3)
    # [N, C, 4, 4] flattened: 16 rows a channel.
    assert m.tensor(small, "w3").shape == (64, 10)


def inverted_residual(net: Net, x: str, c: int, wide: int, out: int, *, squeeze: bool) -> str:
    """MobileNetV3's block: widen, depthwise, squeeze and excite, narrow, add."""
    h = net("HardSwish", net.norm(net.conv(x, c, wide, k=1, bias=False), wide))
    h = net("HardSwish", net.norm(net.conv(h, wide, wide, group=wide, bias=False), wide))
    if squeeze:
        s = net("GlobalAveragePool", h)
        s = net("Relu", net.conv(s, wide, wide // 4, k=1))
        h = net("Mul", h, net("HardSigmoid", net.conv(s, wide // 4, wide, k=1)))
    h = net.norm(net.conv(h, wide, out, k=1, bias=False), out)
    return net("Add", h, x) if c == out else h


def test_mobilenet(m):
    net = Net(m)
    h = net("Relu", net.conv("x", 3, 8, name="stem"))
    for c, wide, out in ((8, 16, 8), (8, 24, 12), (12, 32, 12)):
        h = inverted_residual(net, h, c, wide, out, squeeze=wide != 16)
    h = net("Flatten", net("GlobalAveragePool", h))
    made = net.model(net("Gemm", h, net.w(12, 5), net.w(5)), x=("n", 3, 8, 8))
    # Stem and first block share a residual; each block has its wide part and, where it squeezes, a bottleneck.
    assert sorted(sizes(made).values()) == [6, 8, 8, 12, 16, 24, 32]
    small = halved(m, made, m.normal(2, 3, 8, 8))
    depthwise = [
        n for n in small.graph.node if n.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in n.attribute)
    ]
    assert [next(a.i for a in n.attribute if a.name == "group") for n in depthwise] == [8, 12, 16]


def test_concat_has_offsets(m):
    net = Net(m)
    a = net("Relu", net.conv("x", 2, 6, name="a"))
    b = net("Relu", net.conv(a, 6, 4, name="b"))
    joined = net("Concat", a, "x", b, axis=1)
    h = net("MaxPool", net.norm(joined, 12), kernel_shape=[2, 2], strides=[2, 2])
    h = net("Reshape", h, net.ints(0, -1))
    made = net.model(net.dense(h, 48, 3), x=("n", 2, 4, 4))
    assert sizes(made) == {"a": 6, "b": 4}
    halved(m, made, m.normal(2, 2, 4, 4))
    small = same(m, made, m.normal(2, 2, 4, 4), {"a": [5], "b": [0, 3]})
    assert m.tensor(small, "w4").shape == (5,)


@pytest.mark.parametrize("group", [2, 4])
def test_grouped_convolutions(m, group):
    """Few wide groups lose the same positions of each; many narrow ones go whole."""
    net = Net(m)
    h = net.conv("x", 2, 8, name="in")
    h = net("Relu", net.conv(h, 8, 16, group=group, name="grouped"))
    made = net.model(net.conv(h, 16, 3, name="out"), x=("n", 2, 4, 4))
    assert sizes(made) == ({"in": 4, "grouped": 8} if group == 2 else {"in": 4})
    small = halved(m, made, m.normal(2, 2, 4, 4), again=group == 4)
    assert m.tensor(small, "w3").shape == (8, 2, 3, 3)
    grouped = next(n for n in small.graph.node if n.name == "grouped")
    assert next(a.i for a in grouped.attribute if a.name == "group") == 2


@pytest.mark.parametrize("opset", [11, 17, 18])
def test_split_slice_and_shuffle(m, opset):
    net = Net(m, opset=opset)
    h = net("Relu", net.conv("x", 2, 8, name="in"))
    if opset < 13:
        left, right = net("Split", h, outputs=2, axis=1)
    elif opset == 18:
        left, right = net("Split", h, outputs=2, axis=1, num_outputs=2)
    else:
        left, right = net("Split", h, net.ints(4, 4), outputs=2, axis=1)
    h = net("Mul", left, net("Sigmoid", right))
    if opset > 11:
        a = net("Slice", h, net.ints(1), net.ints(10), net.ints(1))
        b = net("Gather", h, net.ints(3, -1, 0), axis=1)
        h = net("Add", net.conv(a, 3, 6, name="a"), net.conv(b, 3, 6, name="b"))
    made = net.model(net.conv(h, 6 if opset > 11 else 4, 2, name="out"), x=("n", 2, 4, 4))
    assert sum(sizes(made).values()) >= 4
    halved(m, made, m.normal(2, 2, 4, 4))


def test_decoder_with_transposed_convolutions(m):
    net = Net(m)
    down = net("Relu", net.conv("x", 2, 6, name="down"))
    h = net("MaxPool", down, kernel_shape=[2, 2], strides=[2, 2])
    h = net("Relu", net.conv(h, 6, 8, name="deep"))
    up = net("ConvTranspose", h, net.w(8, 4, 2, 2), net.w(4), name="up", strides=[2, 2])
    big = net("Resize", h, "", net.floats(1, 1, 2, 2))
    h = net("Concat", up, down, big, axis=1)
    made = net.model(net.conv(h, 18, 2, name="out"), x=("n", 2, 4, 4))
    assert sizes(made) == {"down": 6, "deep": 8, "up": 4}
    halved(m, made, m.normal(2, 2, 4, 4))


def attention(net: Net, x: str, width: int, heads: int, *, fused: bool, length: int) -> str:
    each = width // heads

    def split(t: str, perm: list[int]) -> str:
        return net("Transpose", net("Reshape", t, net.ints(0, length, heads, each)), perm=perm)

    if fused:
        q, k, v = net(
            "Split", net.dense(x, width, 3 * width, name="qkv"), net.ints(width, width, width), outputs=3, axis=-1
        )
    else:
        q, k, v = (net.dense(x, width, width, name=n) for n in ("q", "k", "v"))
    scores = net("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))
    scores = net("Softmax", net("Mul", scores, net.w(1)), axis=-1)
    h = net("Transpose", net("MatMul", scores, split(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    return net.dense(net("Reshape", h, net.ints(0, 0, -1)), width, width, name="o")


@pytest.mark.parametrize("fused", [False, True])
def test_transformer(m, fused):
    """Whole heads go, and hidden units of the feed-forward part; the residual stream is normalised, so it stays."""
    net = Net(m)
    width, length = 16, 5
    h = net.dense("x", 7, width, name="embed")
    for _ in range(2):
        n = net("LayerNormalization", h, net.w(width, positive=True), net.w(width), axis=-1)
        h = net("Add", h, attention(net, n, width, 4, fused=fused, length=length))
        n = net("LayerNormalization", h, net.w(width, positive=True), net.w(width), axis=-1)
        ff = net("Erf", net.dense(n, width, 32, name="ff"))
        h = net("Add", h, net.dense(ff, 32, width, name="down"))
    made = net.model(net.dense(net("ReduceMean", h, axes=[1], keepdims=0), width, 3), x=("n", length, 7))
    first = "qkv" if fused else "q"
    exact = [(g.name.split("_")[0], g.size) for g in channel_groups(made) if g.exact]
    assert exact == [(first, 4), ("ff", 32), (first, 4), ("ff", 32)]
    assert {g.name: g.size for g in channel_groups(made) if not g.exact} == {"embed": 16}
    small = halved(m, made, m.normal(2, length, 7))
    assert [m.tensor(small, n).shape for n in ("w4",)] == [(16, 24) if fused else (16, 8)]
    # Narrower all through: it runs, and has to learn again.
    narrow = shrink(made, keep_by_share(made, 0.5, inexact=True))
    assert m.run(narrow, m.normal(2, length, 7)).shape == (2, 3)
    assert numbers(narrow) < 0.5 * numbers(made)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent(m, op, direction):
    """Hidden units go in all gates and directions at once."""
    net = Net(m)
    gates, biases, dirs = (
        {"LSTM": 4, "GRU": 3, "RNN": 1}[op],
        {"LSTM": 8, "GRU": 6, "RNN": 2}[op],
        1 + (direction != "forward"),
    )
    h = net("Transpose", net.dense("x", 3, 6, name="in"), perm=[1, 0, 2])
    for width, hidden in ((6, 8), (8 * dirs, 5)):
        parts = [net.w(dirs, gates * hidden, width), net.w(dirs, gates * hidden, hidden), net.w(dirs, biases * hidden)]
        h, *_ = net(op, h, *parts, outputs=2, hidden_size=hidden, direction=direction, name=f"r{hidden}")
        h = net("Reshape", net("Transpose", h, perm=[0, 2, 1, 3]), net.ints(0, 0, dirs * hidden))
    made = net.model(net.dense(h, 5 * dirs, 2), x=("n", 4, 3))
    assert sizes(made) == {"in": 6, "r8": 8, "r5": 5}
    small = halved(m, made, m.normal(2, 4, 3))
    hidden = [a.i for n in small.graph.node for a in n.attribute if a.name == "hidden_size"]
    assert hidden == [4, 2]


def test_computed_shapes(m):
    """As PyTorch exports them: Shape, Gather, Concat, and a Reshape that reads it."""
    net = Net(m)
    h = net("Relu", net.conv("x", 2, 8, name="a"))
    batch = net("Gather", net("Shape", h), net.ints(0), axis=0)
    flat = net("Reshape", h, net("Concat", batch, net.ints(8 * 16), axis=0))
    h = net.dense(flat, 128, 6, name="b")
    back = net("Reshape", h, net("Concat", batch, net.ints(6, 1, 1), axis=0))
    made = net.model(net.conv(back, 6, 2, k=1), x=("n", 2, 4, 4))
    assert sizes(made) == {"a": 8, "b": 6}
    halved(m, made, m.normal(3, 2, 4, 4))


@pytest.mark.parametrize("where", ["expand", "resize", "range"])
def test_numbers_of_channels_that_are_used_otherwise_stay(m, where):
    net = Net(m)
    h = net("Relu", net.conv("x", 2, 8, name="a"))
    shape = net("Shape", h)
    if where == "expand":
        h = net("Add", h, net("Expand", net.w(1, 1, 1, 1), shape))
    elif where == "resize":
        both = net("Slice", shape, net.ints(0), net.ints(2), net.ints(0))
        h = net("Resize", h, "", "", net("Concat", both, net.ints(8, 8), axis=0))
    else:
        scale = net("Cast", net("Gather", shape, net.ints(1), axis=0), to=1)
        h = net("Div", h, scale)
    made = net.model(net.conv(h, 8, 2, name="b"), x=("n", 2, 4, 4))
    assert sizes(made) == ({"a": 8} if where == "resize" else {})
    if where == "resize":
        halved(m, made, m.normal(2, 2, 4, 4))


def test_pixel_shuffle_and_padding(m):
    net = Net(m)
    h = net("Relu", net.conv("x", 2, 8, name="a"))
    h = net("DepthToSpace", h, blocksize=2)
    h = net.conv(h, 2, 4, name="b")
    h = net("SpaceToDepth", h, blocksize=2)
    h = net("Add", net("Pad", h, net.ints(0, 2, 0, 0, 0, 2, 0, 0)), net.conv("x", 2, 20, name="c"))
    made = net.model(net.conv(h, 20, 2, name="d"), x=("n", 2, 4, 4))
    assert sizes(made) == {"a": 2, "b": 4}
    halved(m, made, m.normal(2, 2, 4, 4))


def test_what_is_not_understood_stays_and_is_named(m):
    net = Net(m)
    h = net("Relu", net.conv("x", 2, 8, name="a"))
    strange = net("LRN", h, size=3, name="neighbours")
    h = net.conv(strange, 8, 6, name="b")
    made = net.model(net.conv(h, 6, 2), x=("n", 2, 4, 4))
    assert sizes(made) == {"b": 6}
    result = prune(made, PruneStep(sparsity="50%", structure="Channels"))
    assert any("node neighbours (LRN)" in note for note in result.notes)
    assert [(c.name, c.before, c.after) for c in result.channels] == [("b", 6, 3)]


def test_inputs_outputs_and_subgraphs_stay(m):
    net = Net(m)
    h = net("Relu", net.conv("x", 2, 8, name="a"))
    seen = net("GlobalAveragePool", h)
    total = net("ReduceSum", "x", net.ints(0, 1, 2, 3), keepdims=0)
    branch = helper.make_graph(
        [helper.make_node("Identity", [seen], ["o"])], "then", [], [helper.make_tensor_value_info("o", 1, None)]
    )
    out = net("If", net("Greater", total, net.w()), then_branch=branch, else_branch=branch)
    made = net.model(out, x=("n", 2, 4, 4))
    assert channel_groups(made) == ()
    result = prune(made, PruneStep(sparsity="50%", structure="Channels"))
    assert m.raw(result.model) == m.raw(made)
    assert any("no channels can go" in n for n in result.notes)


def test_exclude(m):
    net = Net(m)
    h = net("Relu", net.conv("x", 2, 8, name="a"))
    h = net("Relu", net.conv(h, 8, 6, name="b"))
    made = net.model(net.dense(net("Flatten", h), 96, 3, name="c"), x=("n", 2, 4, 4))
    assert set(keep_by_share(made, 0.5)) == {"a", "b"}
    assert set(keep_by_share(made, 0.5, exclude=Exclude(nodes=("a",)))) == {"b"}
    assert set(keep_by_share(made, 0.5, exclude=Exclude(ops=("MatMul",)))) == {"a"}
    step = PruneStep(sparsity="50%", structure="Channels", exclude=Exclude(nodes=("b",)))
    assert m.raw(prune(made, step).model) == m.raw(made)


def test_wrong_choices_are_refused(m):
    made = m.mlp()
    with pytest.raises(InputError, match="no group of channels 'nope'"):
        shrink(made, {"nope": [0]})
    with pytest.raises(InputError, match="one of its 48 channels has to stay"):
        shrink(made, {"fc1": []})
    for bad in ([1, 0], [0, 0], [-1], [48]):
        with pytest.raises(InputError, match="sorted indices of its 48 channels"):
            shrink(made, {"fc1": bad})
    tensors = {"a": np.full((2, 3), np.nan, np.float32), "c": np.ones((3, 1), np.float32)}
    nodes = [m.node("MatMul", ["x", "a"], "h", name="one"), m.node("MatMul", ["h", "c"], "y", name="two")]
    with pytest.raises(InputError, match=r"weight 'a' of node 'one' \(MatMul\) holds 6 NaN"):
        keep_by_share(m.model(nodes, tensors, x=("n", 2)), 0.5)


class Drawn:
    """A convolutional graph drawn at random: every step takes one of the tensors that there are."""

    def __init__(self, m: Any, seed: int) -> None:
        self.net = Net(m, seed)
        self.rng = np.random.default_rng(seed + 1)
        first = self.width()
        self.pool: list[tuple[str, int]] = [("x", 2), (self.net.conv("x", 2, first), first)]

    def width(self) -> int:
        return int(self.rng.choice([4, 6, 8, 12]))

    def any(self) -> tuple[str, int]:
        return self.pool[int(self.rng.integers(max(1, len(self.pool) - 4), len(self.pool)))]

    def step(self) -> None:
        net, rng = self.net, self.rng
        x, c = self.any()
        kind = str(rng.choice(sorted(self.moves())))
        made = self.moves()[kind](net, x, c)
        if made is not None:
            self.pool.append(made)

    def moves(self) -> dict[str, Any]:
        rng = self.rng
        unary = ["Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Exp", "Softplus"]

        def conv(net: Net, x: str, c: int) -> Any:
            out = self.width()
            return net.conv(x, c, out, k=int(rng.choice([1, 3]))), out

        def depthwise(net: Net, x: str, c: int) -> Any:
            times = int(rng.integers(1, 3))
            return net.conv(x, c, c * times, group=c), c * times

        def grouped(net: Net, x: str, c: int) -> Any:
            return (net.conv(x, c, 2 * c, group=2), 2 * c) if c % 2 == 0 else None

        def back(net: Net, x: str, c: int) -> Any:
            return net("ConvTranspose", x, net.w(c, 6, 3, 3), net.w(6), pads=[1, 1, 1, 1]), 6

        def joined(net: Net, x: str, c: int) -> Any:
            other, d = self.any()
            return net("Concat", x, other, axis=1), c + d

        def added(net: Net, x: str, c: int) -> Any:
            fitting = [n for n, d in self.pool[1:] if d == c]
            return net(str(rng.choice(["Add", "Mul", "Max"])), x, str(rng.choice(fitting))), c

        def projected(net: Net, x: str, c: int) -> Any:
            other, d = self.any()
            return net("Add", x, net.conv(other, d, c, k=1)), c

        def halves(net: Net, x: str, c: int) -> Any:
            left, right = net("Split", x, net.ints(c // 2, c - c // 2), outputs=2, axis=1)
            self.pool.append((left, c // 2))
            return right, c - c // 2

        def cut(net: Net, x: str, c: int) -> Any:
            if c < 4:
                return None
            return net("Slice", x, net.ints(1), net.ints(-1), net.ints(1)), c - 2

        def excite(net: Net, x: str, c: int) -> Any:
            s = net("Relu", net.conv(net("GlobalAveragePool", x), c, 4, k=1))
            return net("Mul", x, net("Sigmoid", net.conv(s, 4, c, k=1))), c

        def last(net: Net, x: str, c: int) -> Any:
            h = net.dense(net("Transpose", x, perm=[0, 2, 3, 1]), c, 6)
            return net("Transpose", h, perm=[0, 3, 1, 2]), 6

        def shuffled(net: Net, x: str, c: int) -> Any:
            if c % 2:
                return None
            h = net("Transpose", net("Reshape", x, net.ints(0, 2, c // 2, 4, 4)), perm=[0, 2, 1, 3, 4])
            return net("Reshape", h, net.ints(0, -1, 4, 4)), 2 * (c // 2)

        def dense(net: Net, x: str, c: int) -> Any:
            h = net.dense(net("Flatten", net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])), 4 * c, 32)
            return net.conv(
                net("Resize", net("Reshape", h, net.ints(-1, 8, 2, 2)), "", net.floats(1, 1, 2, 2)), 8, 6
            ), 6

        return {
            "conv": conv, "depthwise": depthwise, "added": added, "joined": joined, "projected": projected, "last": last,
            "halves": halves, "cut": cut, "excite": excite, "back": back, "dense": dense,
            "grouped": grouped, "shuffled": shuffled,
            "unary": lambda net, x, c: (net(str(rng.choice(unary)), x), c),
            "norm": lambda net, x, c: (net.norm(x, c), c),
            "instance": lambda net, x, c: (net("InstanceNormalization", x, net.w(c), net.w(c)), c),
            "prelu": lambda net, x, c: (net("PRelu", x, net.w(c, 1, 1)), c),
            "scaled": lambda net, x, c: (net("Mul", x, net.w(1, c, 1, 1)), c),
            "pool": lambda net, x, c: (net("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), c),
        }  # fmt: skip

    def finish(self) -> Any:
        net, parts = self.net, [self.pool[-1], *self.pool[1:4]]
        h = net("Concat", *(n for n, _ in parts), axis=1)
        h = net("Flatten", net("MaxPool", h, kernel_shape=[4, 4]))
        return net.model(net("Gemm", h, net.w(sum(c for _, c in parts), 3), net.w(3)), x=("n", 2, 4, 4))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 14),
    share=st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    granularity=st.sampled_from([Granularity.TENSOR, Granularity.GLOBAL]),
    method=st.sampled_from(PruneMethod),
)
def test_shrunk_equals_zeroed(m, seed, steps, share, granularity, method):
    drawn = Drawn(m, seed)
    for _ in range(steps):
        drawn.step()
    made = drawn.finish()
    keep = keep_by_share(made, share, granularity=granularity, method=method)
    x = np.random.default_rng(seed).normal(size=(2, 2, 4, 4)).astype(np.float32)
    small = same(m, made, x, keep)
    found = sizes(made)
    assert all(0 < len(k) <= found[n] for n, k in keep.items())
    for group in channel_groups(made):
        if granularity is Granularity.TENSOR and group.name in keep:
            left = group.size - int(group.size * (1 - share) + 0.5 + 1e-9)
            assert abs(len(keep[group.name]) - max(1, left)) <= (2 if group.size >= 16 else 0)
    gone = sum(found[n] - len(k) for n, k in keep.items())
    total = sum(found[n] for n in keep)
    if granularity is Granularity.GLOBAL and gone:
        assert gone <= int(total * (1 - share) + 0.5 + 1e-9)
        again = keep_by_share(zeroed(made, keep), share, granularity=granularity, method=method)
        assert {n: k.tolist() for n, k in again.items()} == {n: k.tolist() for n, k in keep.items()}
    if any(len(k) < found[n] for n, k in keep.items()):
        assert numbers(small) < numbers(made)


@pytest.mark.parametrize("packed", [False, True])
def test_attention_with_computed_shapes(m, packed):
    """A free sequence length; the heads are split by a shape that the graph computes, or queries, keys and values lie together."""
    net = Net(m)
    width, heads, each = 12, 3, 4
    shape = net("Shape", "x")
    batch = net("Gather", shape, net.ints(0), axis=0)
    length = net("Gather", shape, net.ints(1), axis=0)
    if packed:
        all_three = net("Reshape", net.dense("x", 7, 3 * width, name="qkv"), net.ints(0, 0, 3, heads, each))
        parts = net("Split", net("Transpose", all_three, perm=[2, 0, 3, 1, 4]), net.ints(1, 1, 1), outputs=3, axis=0)
        q, k, v = (net("Squeeze", p, net.ints(0)) for p in parts)
    else:
        target = net("Concat", batch, length, net.ints(heads), net.ints(each), axis=0)
        q, k, v = (
            net("Transpose", net("Reshape", net.dense("x", 7, width, name=n), target), perm=[0, 2, 1, 3]) for n in "qkv"
        )
    scores = net("Softmax", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    h = net("Transpose", net("MatMul", scores, v), perm=[0, 2, 1, 3])
    h = net("Reshape", h, net("Concat", batch, length, net.ints(width), axis=0))
    made = net.model(net.dense(h, width, 2, name="o"), x=("n", "s", 7))
    assert list(sizes(made).values()) == [heads]
    small = halved(m, made, m.normal(2, 5, 7))
    assert m.run(small, m.normal(3, 9, 7)).shape == (3, 9, 2)


def test_a_mean_by_sum_stays_a_mean(m):
    """A normalisation written out: x minus the sum times 1/n."""
    tensors = {
        "a": np.diag(np.array([1, 2, 3, 4], np.float32)),
        "axis": np.array([1], np.int64),
        "quarter": np.array(0.25, np.float32),
        "b": np.ones((4, 1), np.float32),
    }
    nodes = [
        m.node("MatMul", ["x", "a"], "h", name="one"),
        m.node("ReduceSum", ["h", "axis"], "s", keepdims=1),
        m.node("Mul", ["s", "quarter"], "mean", name="mean"),
        m.node("Sub", ["h", "mean"], "c"),
        m.node("Abs", ["c"], "d"),
        m.node("MatMul", ["d", "b"], "y", name="two"),
    ]
    made = m.model(nodes, tensors, x=("n", 4))
    (group,) = channel_groups(made)
    assert not group.exact
    small = shrink(made, {"one": [0, 3]})
    # 1 and 4: their mean is 2.5.
    assert m.run(small, np.ones((1, 4), np.float32)).tolist() == [[3.0]]
    result = prune(made, PruneStep(sparsity="50%", structure="Channels"))
    assert [(c.before, c.after) for c in result.channels] == [(4, 2)]
    assert any("it is now one over those that are left" in n for n in result.notes)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_broken_graphs_are_followed_without_a_crash(m, seed):
    """Attributes, constants and dimensions that contradict each other: whatever was found still fits together."""
    drawn = Drawn(m, seed)
    for _ in range(8):
        drawn.step()
    made = drawn.finish()
    rng = np.random.default_rng(seed)
    for _ in range(3):
        node = made.graph.node[int(rng.integers(len(made.graph.node)))]
        wild = int(rng.choice([-(2**62), -7, -1, 0, 1, 2, 3, 1000, 2**40, 2**62]))
        if node.attribute and rng.random() < 0.5:
            attribute = node.attribute[int(rng.integers(len(node.attribute)))]
            attribute.i = wild
            attribute.ints[:] = [wild for _ in attribute.ints]
        elif rng.random() < 0.3:
            node.op_type = str(
                rng.choice(["Conv", "MatMul", "Gemm", "Reshape", "Concat", "Split", "Pad", "LSTM", "Slice"])
            )
        else:
            held = [t for t in made.graph.initializer if t.name in node.input]
            if held:
                shape = tuple(int(s) for s in rng.choice([1, 2, 3, 8], size=int(rng.integers(0, 4))))
                values = np.full(shape, wild, np.int64) if held[-1].data_type == 7 else np.ones(shape, np.float32)
                held[-1].CopyFrom(numpy_helper.from_array(values, held[-1].name))
    keep = keep_by_share(made, 0.5, inexact=True)
    shrink(made, keep)
    zeroed(made, keep)
