"""Runner: the package as it is on disk, decoded and evaluated in ONNX Runtime. It is no Mac, and says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from edgec.runtime import Session
from edgec.targets.coreml.evaluate.to_onnx import to_onnx
from edgec.targets.coreml.program import FLOATS, Program

if TYPE_CHECKING:
    from edgec.target import Arrays
    from edgec.targets.coreml.interface import Interface


class DecodedRunner:
    """`half`: fp16 values are rounded after each operation, as the Neural Engine and the GPU store them; else float32 math
    on the package's weights.

    Raises:
        NotEvaluated: an operation of the program has no evaluation rule.
    """

    def __init__(self, program: Program, interface: Interface, *, half: bool = True) -> None:
        self._interface = interface
        self._session = Session(to_onnx(program, half=half))
        self._types = {v.name: "float32" if v.dtype in FLOATS else "int64" for v in program.inputs}
        rounded = half and any(v.dtype == "fp16" for o in program.operations for v in o.outputs)
        how = "fp16 rounded after each operation" if rounded else "computed in float32"
        images = "; images as 8-bit pixels" if any(p.image is not None for p in interface.inputs) else ""
        self.describe = f"the decoded package in {self._session.describe} ({how}{images}); no Apple hardware"

    def run(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        """Outputs by the ONNX model's names for each sample."""
        for sample in samples:
            given = {k: a.astype(self._types[k]) for k, a in self._interface.store(sample).items()}
            yield self._interface.restore(self._session.run(given))
