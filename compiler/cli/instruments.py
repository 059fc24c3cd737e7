"""Instruments of the command line: dumping the graph after each pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.pipeline import Pass, PassResult


class DumpAfterEach:
    """Saves the graph after each pass that changed it: `03-fold-bn.onnx`."""

    def __init__(self, folder: Path) -> None:
        from edgec.output import writing

        self._folder = folder
        self._number = 0
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def before(self, p: Pass, graph: Graph) -> None:
        self._number += 1

    def after(self, p: Pass, graph: Graph, result: PassResult, seconds: float) -> None:
        from edgec.output import writing

        if result.changed:
            path = self._folder / f"{self._number:02}-{p.name}.onnx"
            with writing(path):
                graph.save(path)
