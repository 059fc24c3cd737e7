"""A float32 model as a strongly typed float16 one, the form TensorRT from 10.12 on and TensorRT-RTX build as it stands.

Int8 Q/DQ in such a graph: scales are of 16 bits, and no Cast stands at a Q or DQ. What was measured (TensorRT-RTX 1.7.1,
parser and builder for SM86 and SM89; ONNX Runtime on a CPU; ResNet-20 and MobileNetV2 with per-channel int8 weights):

| form | TensorRT-RTX | ONNX Runtime 1.31 | ORT 1.24 |
|---|---|---|---|
| float16 scales (this pass) | builds, int8 weights in the plan | as float32 scales, optimiser off | 10 dB worse |
| float32 scales, Casts around Q and DQ (`scales=float32`) | builds, plan of equal size | as float32 scales | same |
| float32 scales, DQ with `output_dtype`, Cast before Q (opset 23) | builds, equal size | as float32 scales | not run |
| float32 scales, Q of a float16 tensor (opset 23) | builds, equal size | no kernel | no kernel |
| activations float16, weights float32 and Cast | refused: "type mismatch between matmul operand scales" | runs | not run |

Why float16 scales, then. They are what NVIDIA's exporter makes (Model-Optimizer `fold_dq_fp32_to_fp16_casts`), need opset 19 only,
and leave DequantizeLinear next to its reader, which full TensorRT's fusions ask for; on Orin a float32 value beside a float16
scale fails to build (NVIDIA/TensorRT issue 4832), so a DQ read in both types is made twice. Both scales of one
convolution have the same type (last row). Accuracy: ONNX Runtime's float16 QuantizeLinear truncates in 1.24 (half of
the integers are one too small in magnitude) and rounds in 1.31: the loss is that kernel's, not the form's. With its optimiser
on, 1.31 still quantises the biases of such a model to int32 (WeightBiasQuantization) and computes bias / (scale * scale) in
float16, which overflows: MobileNetV2 gives noise. Judge these files with the optimiser off, or make them with
`scales=float32`. Weights' scales that float16 does not have are raised and their integers stored again (half_scales.py).

Norms (LayerNormalization with stash_type 1, InstanceNormalization) compute in float32 inside in TensorRT (INormalizationLayer),
so that only their inputs and outputs are looked at. Sums of poolings and reductions are taken to be float16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edgec.diagnostics import Location, did_you_mean, error
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.legalize.half_decisions import KEPT_KEY, QDQ, Decisions, Kept
from edgec.passes.legalize.half_islands import islands
from edgec.passes.legalize.half_ranges import observe_ranges
from edgec.passes.legalize.half_slots import slots
from edgec.passes.legalize.half_typing import Typing
from edgec.pipeline import Contract, Pass, PassContext, PassResult

QDQ_OPSET = 19
"""From this opset scales may be of 16 bits."""


@dataclass(frozen=True)
class ToFloat16(Pass):
    """Computes in 16 bits what fits them, and in float32, between Casts, what does not. Inputs and outputs of the model keep
    names and types.

    What does not fit is told from ranges observed on `ctx.calibration` or `ctx.samples` and from bounds that hold for any
    input; every node that stays is noted with its figure (EC0240 ranges, EC0241 constants). Nodes it keeps carry the reason
    in `edgec.float32`, Casts it makes `edgec.rule`.

    Raises:
        EdgecError: EC0243 `keep` names neither a node, a value nor an op of the model.
    """

    to: Literal["float16", "bfloat16"] = "float16"
    keep: tuple[str, ...] = ()
    """Op types, nodes or values whose nodes stay in float32."""
    margin: float = 4.0
    """What observed magnitudes are multiplied with: inputs in use reach further than samples."""
    samples: int = 128
    """How many samples to observe at most."""
    io: Literal["float32", "half"] = "float32"
    """`half`: inputs and outputs of the model are of 16 bits too."""
    scales: Literal["half", "float32"] = "half"
    """Of QuantizeLinear and DequantizeLinear. `float32` puts Casts around them: for ONNX Runtime with its optimiser on, and
    for what reads no other."""

    name: ClassVar[str] = "to-float16"
    contract: ClassVar[Contract] = "lossy"
    needs_calibration: ClassVar[bool] = False

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        if any(v.dtype is None for n in graph.nodes() for v in n.outputs):
            infer_shapes(graph)
        half = ir.DataType.FLOAT16 if self.to == "float16" else ir.DataType.BFLOAT16
        kinds = {n: slots(n, graph.model.opset_imports, half) for n in graph.nodes()}
        keep = self._asked(graph)
        fresh = [n for n, s in kinds.items() if s.typed and n.op_type not in QDQ and KEPT_KEY not in n.metadata_props]
        if not fresh and not self._public_left(graph):
            return PassResult(False)
        decisions = Decisions(graph, half, observe_ranges(graph, ctx, self.margin, self.samples), kinds)
        decisions.decide(keep)
        for group in islands(graph, kinds, decisions.kept, self.io == "half"):
            for node in group:
                decisions.kept[node] = Kept("between nodes in float32: it saves Casts", "")
        typing = Typing(decisions, self.name, io_half=self.io == "half", half_scales=self.scales == "half")
        typing.apply()
        self._tell(graph, ctx, decisions, typing)
        graph.remove_dead()
        stats = {k: n for k, n in typing.stats.items() if n}
        if decisions.kept:
            stats["kept"] = len(decisions.kept)
        return PassResult(bool(stats), stats)

    def _public_left(self, graph: Graph) -> bool:
        return self.io == "half" and any(v.dtype is ir.DataType.FLOAT for v in (*graph.inputs, *graph.outputs))

    def _asked(self, graph: Graph) -> dict[ir.Node, str]:
        """The nodes `keep` names."""
        found: dict[ir.Node, str] = {}
        known: set[str] = set()
        for node in graph.nodes():
            names = {node.name or "", node.op_type, *(v.name or "" for v in node.outputs)} - {""}
            known |= names
            for name in self.keep:
                if name in names:
                    found.setdefault(node, name)
        for name in self.keep:
            if name not in known:
                hint = did_you_mean(name, sorted(known), "`edgec inspect` lists them")
                raise error(
                    "EC0243", f"keep: the model has no op, node or value {name!r}", Location(graph.source), hint
                )
        return found

    def _tell(self, graph: Graph, ctx: PassContext, decisions: Decisions, typing: Typing) -> None:
        for node, kept in decisions.kept.items():
            node.metadata_props.setdefault(KEPT_KEY, kept.why)
            if kept.code:
                where = Location(graph.source, node=node.name or node.outputs[0].name)
                ctx.diagnostics.note(
                    kept.code, f"{node.op_type} stays in float32: {kept.why}", where, kept.hint or None
                )
        for node, smallest in typing.coarse.items():
            where = Location(graph.source, node=node.name or node.outputs[0].name)
            what = f"{node.op_type} stays in float32: {self.to} cannot hold its scale {smallest:.3g}"
            ctx.diagnostics.note("EC0244", what, where, "keep it out of quantisation, or look at the model's inputs")
        old = (
            [
                n
                for n in graph.nodes()
                if n.op_type in QDQ and "float" in (*decisions.slots[n].inputs, *decisions.slots[n].outputs)
            ]
            if graph.opset < QDQ_OPSET
            else []
        )
        if old:
            where = Location(graph.source, node=old[0].name or old[0].outputs[0].name)
            what = f"opset {graph.opset} has no {self.to} scales: {len(old)} Q/DQ nodes stay in float32 between Casts"
            ctx.diagnostics.note("EC0244", what, where, "TensorRT may not fuse them: run upgrade-opset first")
