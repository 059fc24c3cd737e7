"""The ONNX file of an artifact, run with ONNX Runtime where its engine cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.target import Arrays, Artifact


class OnnxRunner:
    """`model.onnx` as it is written, without ONNX Runtime's own optimisations; plugin nodes by their reference in ONNX ops."""

    def __init__(self, artifact: Artifact, graph: Graph, note: str) -> None:
        from edgec.plugin_ops import plugin_nodes
        from edgec.runtime import Session

        path = artifact.files["model.onnx"]
        assert isinstance(path, Path)  # emit writes files
        self._session = Session(graph if plugin_nodes(graph) else path)
        self.describe = f"{self._session.describe}, running model.onnx; {note}"

    def run(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        yield from self._session.run_all(samples)
