"""Recurrent nodes written out give what ONNX Runtime's own give, attribute by attribute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.passes.legalize.unroll_rnn import UnrollRnn
from edgec.pipeline import PassContext
from edgec.testing import assert_equivalent

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, B, H, FEATURES = 5, 3, 6, 4


def model(
    op: str, *, lens: list[int] | None = None, states: bool = False, peepholes: bool = False, **attrs: object
) -> Graph:
    rng = np.random.default_rng(7)
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    g = GATES[op]
    weights = {
        "W": rng.standard_normal((directions, g * H, FEATURES)), "R": rng.standard_normal((directions, g * H, H)) / 2,
        "B": rng.standard_normal((directions, 2 * g * H)), "P": rng.standard_normal((directions, 3 * H)),
    }  # fmt: skip
    layout = attrs.get("layout", 0)
    state = [B, directions, H] if layout else [directions, B, H]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [B, T, FEATURES] if layout else [T, B, FEATURES])]
    initializers = [onnx.numpy_helper.from_array(weights[k].astype(np.float32), k) for k in "WRB"]
    names = ["x", "W", "R", "B", "", "", "", ""]
    if lens is not None:
        initializers.append(onnx.numpy_helper.from_array(np.array(lens, np.int32), "lens"))
        names[4] = "lens"
    if states:
        for i, name in ((5, "h0"), (6, "c0"))[: 2 if op == "LSTM" else 1]:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, state))
            names[i] = name
    if peepholes:
        initializers.append(onnx.numpy_helper.from_array(weights["P"].astype(np.float32), "P"))
        names[7] = "P"
    while names[-1] == "":
        names.pop()
    outputs = ["y", "h", "c"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, names, outputs, hidden_size=H, **attrs)
    shape = [B, T, directions, H] if layout else [T, directions, B, H]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape if n == "y" else state) for n in outputs]
    graph = helper.make_graph([node], "g", inputs, infos, initializers)
    return Graph.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def check(before: Graph) -> None:
    after = before.clone()
    infer_shapes(after)
    assert UnrollRnn().run(after, PassContext()).changed
    after.verify()
    assert not set(GATES) & set(after.op_counts())
    assert_equivalent(before, after, seeds=1)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lens", [None, [5, 2, 1], [3, 3, 2]])
@pytest.mark.parametrize("states", [False, True])
def test_direction_lengths_and_states(op: str, direction: str, lens: list[int] | None, states: bool) -> None:
    check(model(op, direction=direction, lens=lens, states=states))


@pytest.mark.parametrize("before", [0, 1])
def test_gru_linear_before_reset(before: int) -> None:
    check(model("GRU", direction="bidirectional", linear_before_reset=before, states=True))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_lstm_peepholes(direction: str) -> None:
    check(model("LSTM", direction=direction, peepholes=True, states=True))


def test_lstm_coupled_gates() -> None:
    check(model("LSTM", input_forget=1))


@pytest.mark.parametrize("op", GATES)
def test_clip(op: str) -> None:
    check(model(op, clip=0.5, states=True))


@pytest.mark.parametrize(
    "name",
    ["Relu", "LeakyRelu", "HardSigmoid", "Elu", "Softsign", "Softplus", "ThresholdedRelu", "Affine", "ScaledTanh"],
)
def test_activations(name: str) -> None:
    check(model("RNN", activations=[name], activation_alpha=[0.3], activation_beta=[0.4]))


def test_activations_consume_their_parameters_in_order() -> None:
    names = ["HardSigmoid", "Tanh", "LeakyRelu"]
    check(model("LSTM", activations=names, activation_alpha=[0.3, 0.1], activation_beta=[0.4]))


def test_long_sequences_are_refused() -> None:
    context = PassContext()
    assert not UnrollRnn(limit=4).run(model("GRU"), context).changed
    assert "5 steps" in next(iter(context.rejections["unroll-rnn"].values()))


def test_only_the_last_state_is_used() -> None:
    graph = model("LSTM")
    graph.model.graph.outputs.pop(0)
    check(graph)
