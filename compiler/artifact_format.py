"""ArtifactFormat: files that targets write, read back by `edgec inspect` and run by `edgec compare`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.summary import Line
    from edgec.target import Arrays
    from edgec.toolchain import ToolchainManager


@dataclass(frozen=True)
class Inspection:
    """What is in a file: lines for people, `data` for tools, `text` the whole program, one operator a line."""

    lines: Sequence[Line]
    data: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


class ArtifactRun(Protocol):
    """A file that stands for an ONNX model, on this host."""

    describe: str
    """What runs it."""

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of the ONNX model's inputs, as the file has them fixed."""

    @property
    def names(self) -> Collection[str]:
        """Of the values that it computes, as the file calls them."""

    def run(self, samples: Iterable[Arrays]) -> Iterable[Arrays]:
        """The ONNX model's outputs for each sample of its inputs."""

    def values(self, samples: Iterable[Arrays], shapes: Mapping[str, tuple[int, ...]]) -> Iterable[Arrays]:
        """What the file computes inside, as the ONNX model's values: those of `shapes` that it has, the same each time."""


class ArtifactFormat(ABC):
    """One format. `name` is the suffix it is registered for, with its dot."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def inspect(self, path: Path) -> Inspection:
        """Read a file of anybody's. An EdgecError says what is wrong with it."""

    def open(self, path: Path, reference: Graph, toolchains: ToolchainManager, folder: Path) -> ArtifactRun | None:
        """The file as one that stands for `reference`; None where it cannot run here. `folder` is for temporary files."""
        return None
