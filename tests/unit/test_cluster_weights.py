"""k-means on a line, clustering and pruning of weights: few values, many zeros, less error than without data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant, ir
from edgec.infer import infer_shapes
from edgec.passes.prune.cluster_weights import ClusterWeights
from edgec.passes.prune.kmeans import kmeans, nearest
from edgec.passes.prune.sparsify_weights import SparsifyWeights
from edgec.passes.prune.table_rounding import TableRounding
from edgec.passes.quantize.rounding import damped
from edgec.pipeline import Pass, PassContext
from edgec.runtime import Session
from edgec.samples import Samples

Array = npt.NDArray[Any]


def net(seed: int = 0, *, group: int = 1) -> Graph:
    """Conv -> Relu -> Conv -> Relu -> pool -> Gemm, with inputs' channels of very different sizes inside."""
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,8,9,9] x) => (float[1,40] y) {{
            c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            r1 = Relu(c1)
            c2 = Conv <pads = [1, 1, 1, 1], group = {group}> (r1, w2, b2)
            r2 = Relu(c2)
            p = GlobalAveragePool(r2)
            f = Flatten(p)
            y = Gemm <transB = 1> (f, w3)
        }}""")
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(0, 1, (32, 1, 1, 1))
    weights = {
        "w1": rng.normal(size=(32, 8, 3, 3)) * sizes, "b1": rng.normal(size=32),
        "w2": rng.normal(size=(64, 32 // group, 3, 3)), "b2": rng.normal(size=64), "w3": rng.laplace(size=(40, 64)),
    }  # fmt: skip
    for node in graph.model.graph:
        for i, v in enumerate(node.inputs):
            if v is not None and v.name in weights:
                value = ir.Value(name=v.name, const_value=ir.tensor(weights[v.name].astype(np.float32)))
                value.shape, value.dtype = ir.Shape(weights[v.name].shape), ir.DataType.FLOAT
                graph.model.graph.register_initializer(value)
                node.replace_input_with(i, value)
    infer_shapes(graph)
    return graph


def inputs(count: int, seed: int) -> list[dict[str, Array]]:
    """Smooth images: neighbours are alike, channels too, as those of real networks."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(8, 3))
    made = []
    for _ in range(count):
        fine = np.cumsum(np.cumsum(rng.normal(size=(3, 9, 9)), 1), 2) / 9
        made.append({"x": np.einsum("ck,khw->chw", mix, fine)[None].astype(np.float32)})
    return made


def calibration(count: int = 12) -> Samples:
    held = inputs(count, 1)
    return Samples(lambda: iter(held), describe="smooth noise", count=count)


def weight(graph: Graph, name: str) -> Array:
    return np.asarray(constant(graph.model.graph.initializers[name]))


def error_of(graph: Graph, reference: Graph) -> float:
    """Relative square error of the output on inputs that were not calibrated on."""
    unseen = inputs(24, 2)
    want, got = (np.stack([o["y"] for o in Session(g).run_all(unseen)]) for g in (reference, graph))
    return float(((want - got) ** 2).sum() / (want**2).sum())


def run(p: Pass, samples: Samples | None = None, *, group: int = 1) -> tuple[Graph, Graph]:
    """The graph after the pass, and as it was."""
    graph = net(group=group)
    before = graph.clone()
    p.run(graph, PassContext(calibration=samples))
    return graph, before


class TestKMeans:
    """Centres on a line."""

    def test_few_values_are_their_own_centres(self) -> None:
        """No more centres than values, and no error."""
        assert kmeans(np.array([3.0, 1, 3, 2, 1]), 16).tolist() == [1, 2, 3]

    def test_separate_clusters_are_found(self) -> None:
        """Clusters far apart: each centre is a mean."""
        values = np.array([0.0, 0.1, 0.2, 10, 10.2, 20, 20.1, 20.2])
        assert kmeans(values, 3) == pytest.approx([0.1, 10.1, 20.1], abs=1e-3)

    def test_weights_draw_centres(self) -> None:
        """A centre is the weighted mean of what is nearest to it."""
        found = kmeans(np.array([0.0, 1.0, 10.0, 11.0]), 2, np.array([3.0, 1, 1, 1]))
        assert found == pytest.approx([0.25, 10.5], abs=1e-4)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**31), st.sampled_from([2, 3, 16, 64]), st.sampled_from(["normal", "laplace", "integers"]))
    def test_no_start_is_worse_than_equal_steps(self, seed: int, k: int, kind: str) -> None:
        """Whatever the numbers: centres ascend, lie among them, and are no worse than equal steps."""
        rng = np.random.default_rng(seed)
        draw = {"normal": rng.normal, "laplace": rng.laplace}.get(kind)
        values = draw(size=500) if draw else rng.integers(-40, 40, 500).astype(float)
        centres = kmeans(values, k)
        assert (np.diff(centres) >= 0).all()
        assert len(centres) <= k
        assert values.min() <= centres[0] <= centres[-1] <= values.max()
        steps = np.linspace(values.min(), values.max(), k)
        ours, theirs = (((values - c[nearest(values, c)]) ** 2).sum() for c in (centres, steps))
        assert ours <= theirs * (1 + 1e-4)

    def test_the_same_numbers_the_same_centres(self) -> None:
        """No randomness inside."""
        values = np.random.default_rng(5).normal(size=3000)
        assert np.array_equal(kmeans(values, 16), kmeans(values.copy(), 16))


class TestTableRounding:
    """Choices and values for least output error."""

    def problem(self) -> tuple[Array, Array, Array]:
        rng = np.random.default_rng(3)
        w = rng.normal(size=(1, 24, 40))
        x = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 400)) + 0.1 * rng.normal(size=(40, 400))
        return w, damped((x @ x.T / 400)[None], 0.01), np.zeros((1, 24), int)

    def test_it_is_better_than_the_nearest_value(self) -> None:
        """Correlated inputs: errors of one weight can be made good by others."""
        w, h, part = self.problem()
        table = kmeans(w, 8)
        e = w - table[nearest(w, table)]
        plain = float(((e @ h) * e).sum())
        rounding = TableRounding(w, h, [table], part)
        fed_back = rounding.error()
        rounding.improve(3, 2)
        assert fed_back < 0.5 * plain
        assert rounding.error() < fed_back

    def test_weights_have_the_values_of_their_table(self) -> None:
        """Two tables, rows of each by its own."""
        w, h, part = self.problem()
        part[:, 12:] = 1
        rounding = TableRounding(w, h, [kmeans(w[:, :12], 4), kmeans(w[:, 12:], 4)], part)
        rounding.improve(3, 2)
        for i in range(2):
            assert set(np.unique(rounding.q[part == i])) <= set(rounding.tables[i].tolist())
        assert not set(rounding.tables[0]) & set(rounding.tables[1])

    def test_what_is_fixed_stays(self) -> None:
        """Pruned weights stay zero."""
        w, h, part = self.problem()
        zeros = np.random.default_rng(4).random(w.shape) < 0.5
        w = np.where(zeros, 0, w)
        rounding = TableRounding(w, h, [kmeans(w[~zeros], 7)], part, zeros)
        rounding.improve(2, 2)
        assert not rounding.q[zeros].any()
        assert len(np.unique(rounding.q)) <= 8


class TestClusterWeights:
    """The pass."""

    def test_large_weights_have_few_values(self) -> None:
        """2304, 18432 and 2560 numbers, 16 values each; biases stay without data."""
        graph, before = run(ClusterWeights(share=0))
        for name in ("w1", "w2", "w3"):
            assert len(np.unique(weight(graph, name))) == 16
        assert np.array_equal(weight(graph, "b1"), weight(before, "b1"))

    def test_small_weights_stay(self) -> None:
        """Below the threshold nothing changes."""
        graph, before = run(ClusterWeights(share=0, smallest=3000))
        assert np.array_equal(weight(graph, "w1"), weight(before, "w1"))
        assert len(np.unique(weight(graph, "w2"))) == 16

    def test_grouped_convolutions_have_bits_of_their_own(self) -> None:
        """`depthwise` is for them; 0 takes `bits`."""
        eight, _ = run(ClusterWeights(share=0), group=4)
        four, _ = run(ClusterWeights(share=0, depthwise=0), group=4)
        assert 16 < len(np.unique(weight(eight, "w2"))) <= 256
        assert len(np.unique(weight(four, "w2"))) == 16

    def test_groups_of_channels_have_tables(self) -> None:
        """`per=group`: 16 channels a table."""
        graph, before = run(ClusterWeights(share=0, per="group"))
        w = weight(graph, "w1")
        assert all(len(np.unique(part)) == 16 for part in np.split(w, 2))
        one, _ = run(ClusterWeights(share=0))
        errors = [((weight(g, "w1") - weight(before, "w1")) ** 2).sum() for g in (graph, one)]
        assert errors[0] < errors[1]

    def test_data_makes_it_better(self) -> None:
        """Fitted to layer outputs, 3 bits lose several times less on inputs that were not seen."""
        plain, before = run(ClusterWeights(share=0, bits=3))
        fitted, _ = run(ClusterWeights(share=0, bits=3), calibration())
        for name in ("w1", "w2", "w3"):
            assert len(np.unique(weight(fitted, name))) <= 8
        assert error_of(fitted, before) < 0.5 * error_of(plain, before)

    def test_fit_can_be_left_out(self) -> None:
        """`fit=false`: as without data."""
        plain, _ = run(ClusterWeights(share=0))
        asked, _ = run(ClusterWeights(share=0, fit=False), calibration())
        assert np.array_equal(weight(plain, "w2"), weight(asked, "w2"))

    def test_pruned_weights_keep_their_zeros(self) -> None:
        """Clustering after pruning: zeros, and 15 values."""
        graph, _ = run(SparsifyWeights(sparsity=0.6))
        zeros = weight(graph, "w2") == 0
        ClusterWeights(share=0).run(graph, PassContext(calibration=calibration()))
        assert np.array_equal(weight(graph, "w2") == 0, zeros)
        assert len(np.unique(weight(graph, "w2"))) <= 16

    def test_shared_weights_stay(self) -> None:
        """A constant two nodes read is nobody's own."""
        graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 21]>
            g (float[1,64] x) => (float[1,64] y) { a = MatMul(x, w) y = MatMul(a, w) }""")
        w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
        value = ir.Value(name="w", const_value=ir.tensor(w))
        value.shape, value.dtype = ir.Shape(w.shape), ir.DataType.FLOAT
        graph.model.graph.register_initializer(value)
        for node in graph.model.graph:
            node.replace_input_with(1, value)
        infer_shapes(graph)
        assert not ClusterWeights(share=0).run(graph, PassContext()).changed

    @pytest.mark.parametrize("bits", [0, 9])
    def test_bits_out_of_range(self, bits: int) -> None:
        """Tables have 1 to 8 bits."""
        with pytest.raises(EdgecError, match="1 to 8 bits"):
            run(ClusterWeights(share=0, bits=bits))


class TestSparsifyWeights:
    """The pass."""

    def test_magnitude(self) -> None:
        """Without data the smallest go."""
        graph, before = run(SparsifyWeights(sparsity=0.75, allocation="uniform"))
        w, old = weight(graph, "w2"), weight(before, "w2")
        assert (w == 0).mean() == 0.75
        assert np.abs(old[w == 0]).max() <= np.abs(old[w != 0]).min()
        assert np.array_equal(w[w != 0], old[w != 0])

    @pytest.mark.parametrize("pattern", ["magnitude", "2:4"])
    def test_data_makes_it_better(self, pattern: str) -> None:
        """The weights that stay make good what is lost."""
        plain, before = run(SparsifyWeights(sparsity=0.5, pattern=pattern, allocation="uniform"))
        fitted, _ = run(SparsifyWeights(sparsity=0.5, pattern=pattern, allocation="uniform"), calibration())
        assert (weight(fitted, "w2") == 0).mean() == pytest.approx(0.5, abs=1e-3)
        assert error_of(fitted, before) < 0.3 * error_of(plain, before)

    def test_layers_of_small_weights_lose_more(self) -> None:
        """The same number of zeros in all, elsewhere."""
        even, _ = run(SparsifyWeights(sparsity=0.5, allocation="uniform"))
        graph, before = run(SparsifyWeights(sparsity=0.5))
        names = [n for n in ("w1", "w2", "w3") if (weight(even, n) == 0).mean() > 0.4]
        zeros = {n: int((weight(graph, n) == 0).sum()) for n in names}
        total = sum(weight(before, n).size for n in names)
        assert sum(zeros.values()) == pytest.approx(total / 2, abs=1)
        assert any(abs(zeros[n] / weight(before, n).size - 0.5) > 0.01 for n in names)
        for n in names:
            w, old = np.abs(weight(graph, n)), np.abs(weight(before, n))
            assert old[w == 0].max() <= old[w != 0].min()

    @pytest.mark.parametrize("samples", [None, calibration()])
    def test_two_of_four_along_the_input_channels(self, samples: Samples | None) -> None:
        """Each four input channels at one place of the kernel have two zeros."""
        graph, _ = run(SparsifyWeights(pattern="2:4"), samples)
        zeros = (weight(graph, "w2") == 0).reshape(64, 8, 4, 9).sum(axis=2)
        assert (zeros == 2).all()

    def test_grouped_convolutions_stay(self) -> None:
        """They are small and lose most."""
        graph, before = run(SparsifyWeights(sparsity=0.5), group=4)
        assert np.array_equal(weight(graph, "w2"), weight(before, "w2"))

    @pytest.mark.parametrize("p", [SparsifyWeights(sparsity=1.0), SparsifyWeights(pattern="4:2")])
    def test_out_of_range(self, p: SparsifyWeights) -> None:
        """Nothing or everything, or more than there are."""
        with pytest.raises(EdgecError):
            run(p)
