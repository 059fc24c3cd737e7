"""What makes the files for acme-a1: a program in JSON, and the weights."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from typing import ClassVar

import numpy as np

from edgec import Artifact, Graph, Target
from edgec.graph import constant
from edgec.specs.schema import TargetSpec, load_spec
from edgec.target import EmitJob, Runner
from edgec_acme.runner import ProgramRunner


class AcmeA1(Target):
    """The device acme-a1."""

    options: ClassVar[dict[str, str]] = {"comment": "a line of text to keep in the program"}

    def spec(self) -> TargetSpec:
        return load_spec(TargetSpec, files("edgec_acme") / "acme-a1.yaml")

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        steps = []
        for node in graph.nodes():
            attributes = {name: a.value for name, a in node.attributes.items()}
            inputs = [v.name if v is not None else None for v in node.inputs]
            steps.append({"op": node.op_type, "inputs": inputs, "output": node.outputs[0].name, **attributes})
        program = {
            "inputs": [v.name for v in graph.inputs],
            "outputs": [v.name for v in graph.outputs],
            "comment": str(job.options.get("comment", "")),
            "steps": steps,
        }
        weights = {name: constant(v) for name, v in sorted(graph.model.graph.initializers.items())}
        packed = io.BytesIO()
        np.savez(packed, **{name: w for name, w in weights.items() if w is not None})
        files_made = {"program.json": json.dumps(program, indent=1).encode(), "weights.npz": packed.getvalue()}
        return Artifact(files_made, entry="program.json", facts={"steps": len(steps)})

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner:
        program, weights = (artifact.files[name] for name in ("program.json", "weights.npz"))
        assert isinstance(program, bytes)  # emit made them
        assert isinstance(weights, bytes)
        return ProgramRunner(program, weights)
