"""The network of an ONNX file as a TorchScript module, by edgec's TorchGraph: source of coremltools' torch frontend.

    python torch_trace.py SOURCE.onnx SAMPLE.npz OUT.pt

Takes the inputs in the order of the sample, gives the outputs in the model's. Stops where torch computes other outputs than ONNX
Runtime on the sample.
"""

import sys

import numpy as np
import torch

from edgec.graph import Graph
from edgec.runtime import Session
from edgec.training.torch_graph import TorchGraph


class Network(torch.nn.Module):
    def __init__(self, graph: TorchGraph, names: list[str]) -> None:
        super().__init__()
        self.graph, self.names = graph, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.graph.run(dict(zip(self.names, inputs, strict=True))).values())


def main() -> None:
    source, sample, out = sys.argv[1:]
    with np.load(sample) as z:
        feeds = {k: z[k] for k in z.files}
    graph = Graph.load(source)
    network = TorchGraph(graph)
    network.parameters = {k: v.detach() for k, v in network.parameters.items()}
    inputs = tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in feeds.values())
    with torch.no_grad():
        traced = torch.jit.trace(Network(network, list(feeds)).eval(), inputs, check_trace=False)
        traced = torch.jit.freeze(traced)  # numbers that TorchGraph computed from constants are constants
        found = traced(*inputs)
    wanted = Session(graph).run(feeds)
    for (name, a), b in zip(wanted.items(), found, strict=True):
        if not np.allclose(a, b.numpy(), rtol=1e-3, atol=1e-3 * max(float(np.abs(a).max()), 1e-3)):
            raise SystemExit(f"output {name!r} of the torch form differs by up to {np.abs(a - b.numpy()).max()}")
    traced.save(out)


main()
