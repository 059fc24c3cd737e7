"""Importance by gradients: how far the outputs move, to first order, when an atom's activations go to zero.

For outputs y and the activations a of an atom, |J a|^2 with J = dy/da. It needs no labels: the mean over random e, of
(e . J a)^2, is the square of the sum of activation x gradient of e . y (Hutchinson 1990; the Taylor criterion of Molchanov et
al. 2019, arXiv:1906.10771, with the outputs themselves in the place of a loss, as in Fisher pruning of Theis et al. 2018,
arXiv:1801.05787).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph
from edgec.passes.prune.groups.group import Group
from edgec.passes.prune.importance import Scores, read_activations, relative
from edgec.passes.quantize.judge import judged_values

_DIRECTIONS = 4
"""Random directions in the outputs, a sample."""


def sensitivity_of_outputs(
    graph: Graph, groups: Sequence[Group], samples: Sequence[Mapping[str, npt.NDArray[Any]]]
) -> list[Scores | None]:
    """One number an atom, relative to the mean of all; None for groups whose activations nothing reads.

    Raises:
        EdgecError: EC0320 PyTorch is not installed; EC0321 an op cannot be differentiated.
    """
    from edgec.training import TorchGraph, require_torch

    require_torch()
    import torch

    net = TorchGraph(graph)
    places = [list(read_activations(g)) for g in groups]
    names = sorted({d.value.name or "" for found in places for d, _ in found})
    outputs = sorted(set(judged_values(graph).values()))
    totals = [np.zeros(len(g.numbers)) for g in groups]
    generator = torch.Generator().manual_seed(0)
    for sample in samples:
        values = net.run(sample, [*names, *(o for o in outputs if o not in names)])
        for _ in range(_DIRECTIONS):
            y = [values[o] for o in outputs if values[o].is_floating_point()]
            loss = sum((torch.randn(v.shape, generator=generator).to(v) * v).sum() / (v.norm() + 1e-12) for v in y)
            wanted = [values[n] for n in names]
            found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
            products = {
                n: (v * g).detach().cpu().numpy() for n, v, g in zip(names, wanted, found, strict=True) if g is not None
            }
            for total, group, dims in zip(totals, groups, places, strict=True):
                moved = np.zeros(len(total))
                for d, c in dims:
                    p = products.get(d.value.name or "")
                    if p is not None:
                        axes = tuple(i for i in range(p.ndim) if i != d.axis)
                        moved += group.sums(c, p.sum(axis=axes, dtype=np.float64))
                total += moved**2
    return relative([t if found else None for t, found in zip(totals, places, strict=True)])
