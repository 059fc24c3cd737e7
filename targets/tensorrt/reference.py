"""The ONNX file of an artifact, run with ONNX Runtime where its engine cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.runtime import Session
    from edgec.target import Arrays


class OnnxRunner:
    """The file as it is written, see `file_session`. `note`: why the engine did not run."""

    def __init__(self, model: Path, note: str) -> None:
        self._session = file_session(model)
        self.describe = f"{self._session.describe}, running {model.name}; {note}"

    def run(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        yield from self._session.run_all(samples)


def file_session(path: Path) -> Session:
    """A file without ONNX Runtime's own optimisations; its plugin nodes run as their reference in ONNX ops."""
    from edgec.graph import Graph
    from edgec.plugin_ops import plugin_nodes
    from edgec.runtime import Session

    graph = Graph.load(path)
    return Session(graph if plugin_nodes(graph) else path)
