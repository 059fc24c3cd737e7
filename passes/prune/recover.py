"""What pruning lost, made good from unlabelled inputs, with the float graph there was as the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgec.diagnostics import error
from edgec.graph import Graph
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.pruning import PruningRecord

if TYPE_CHECKING:
    from edgec.pipeline import Contract
    from edgec.samples import Samples

Method = Literal["closed-form"]


@dataclass(frozen=True)
class Recover(Pass):
    """Change the weights that are left so that the graph computes what it did before `prune`.

    `closed-form`: layer after layer, the weights that come closest to the outputs the layer had, by least squares on what it
    reads now. `samples`: calibration inputs used, as far as their activations fit `memory` (MiB). `columns`: places
    (pixels) taken of a layer's input, all samples together; more where the layer has many weights.

    Raises:
        EdgecError: EC0339 nothing was pruned in this pipeline; EC0731 no calibration data.
    """

    method: Method = "closed-form"
    samples: int = 256
    columns: int = 16384
    memory: int = 2048

    name: ClassVar[str] = "recover"
    contract: ClassVar[Contract] = "lossy"
    requires: ClassVar[frozenset[str]] = frozenset({"constants-as-initializers"})
    needs_calibration: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        if ctx.pruning is None:
            hint = "prune{ratio=0.3},recover: both in one pipeline"
            raise error("EC0339", "recover makes good what prune lost, and nothing has been pruned", hint=hint)
        if ctx.calibration is None:
            hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function: unlabelled inputs like those in use"
            raise error("EC0731", "recover needs calibration data", hint=hint)
        if not ctx.pruning:
            return PassResult(False)
        return _METHODS[self.method](self, graph, ctx.pruning, ctx.calibration, ctx)


def _closed_form(p: Recover, graph: Graph, record: PruningRecord, samples: Samples, ctx: PassContext) -> PassResult:
    from edgec.passes.prune.closed_form import recover

    stats = recover(graph, record, samples, p.samples, p.columns, p.memory, ctx.seed)
    return PassResult(any(stats.values()), stats)


_METHODS: dict[Method, Callable[[Recover, Graph, PruningRecord, Samples, PassContext], PassResult]] = {
    "closed-form": _closed_form,
}
"""What each method runs. It is given the pass with its options, the graph to change in place, what was pruned, inputs."""
