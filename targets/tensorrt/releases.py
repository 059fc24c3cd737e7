"""JetPack releases: which TensorRT a board runs, in which form that TensorRT takes an ONNX file, and what its DLA takes.

The facts are in specs/jetpack.yaml, each with its evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from edgec.diagnostics import EdgecError, error

if TYPE_CHECKING:
    from edgec.graph import Graph

Form = Literal["weak", "strong"]
Dla = Literal["cache", "typed", "none"]
Version = tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """Versions from `first` on, up to but without `end`."""

    first: Version
    end: Version

    def __contains__(self, version: Version) -> bool:
        return self.first <= version < self.end


@dataclass(frozen=True)
class Board:
    """A Jetson. `sm`: compute capability times ten; `jetpack`: the release it usually runs."""

    name: str
    sm: int
    dla_cores: int
    jetpack: str


@dataclass(frozen=True)
class Release:
    """A JetPack release on one board."""

    jetpack: str
    board: Board
    l4t: str
    tensorrt: Version
    cuda: str
    form: Form
    opset: int
    """The newest ONNX opset its TensorRT reads."""
    dla: Dla
    """What the board's DLA takes there; `none` where it has no DLA, or that TensorRT does not drive it."""
    versions: Span
    """The TensorRT versions that take a file of `form` made by the release's pipelines."""
    evidence: str

    @property
    def tensorrt_text(self) -> str:
        return ".".join(map(str, self.tensorrt))

    def to_json(self) -> dict[str, Any]:
        return {
            "board": self.board.name,
            "jetpack": self.jetpack,
            "l4t": self.l4t,
            "tensorrt": self.tensorrt_text,
            "cuda": self.cuda,
            "compute_capability": f"{self.board.sm // 10}.{self.board.sm % 10}",
            "form": self.form,
            "opset": self.opset,
            "dla": self.dla,
            "evidence": self.evidence,
        }


def release(board: str, jetpack: str | None = None) -> Release:
    """The release `jetpack` on a board; without one, the release the board usually runs. "6.2.1" is 6.2, "5.1.3" is 5.

    Raises:
        EdgecError: EC0690 there is no such JetPack; EC0691 it does not run on that board.
    """
    known = boards()[board]
    row = _row(jetpack or known.jetpack, board)
    if board not in row["boards"]:
        runs = ", ".join(r["name"] for r in _data()["jetpacks"] if board in r["boards"])
        on = ", ".join(row["boards"])
        raise error(
            "EC0691", f"JetPack {row['name']} does not run on {board}: it is for {on}", hint=f"{board} runs {runs}"
        )
    tensorrt = version(row["tensorrt"])
    dla: Dla = row["dla"] if known.dla_cores and board in row.get("dla_boards", row["boards"]) else "none"
    form: Form = row["form"]
    span = versions(form)
    if "oldest" in row:
        span = Span(version(row["oldest"]), span.end)
    return Release(
        row["name"], known, row["l4t"], tensorrt, row["cuda"], form, parser_opset(tensorrt), dla, span, row["evidence"]
    )  # fmt: skip


def releases(board: str) -> Sequence[Release]:
    """Every release that runs on a board, oldest first."""
    return [release(board, r["name"]) for r in _data()["jetpacks"] if board in r["boards"]]


def versions(form: Form) -> Span:
    """The TensorRT versions that take files of a form."""
    row = _data()["forms"][form]
    return Span(version(row["from"]), version(row["until"]))


def parser_opset(tensorrt: Version) -> int:
    """The newest opset the ONNX parser of a TensorRT version reads."""
    return max(int(p["opset"]) for p in _data()["parsers"] if version(p["from"]) <= tensorrt)


def oldest_parser(opset: int) -> Version | None:
    """The first TensorRT whose parser reads an opset; None where none does."""
    found = [version(p["from"]) for p in _data()["parsers"] if int(p["opset"]) >= opset]
    return min(found, default=None)


def has_qdq(graph: Graph) -> bool:
    """Whether there are Q/DQ pairs: a weak file with them is built only where int8 is allowed, whatever the precision is
    called (microsoft/onnxruntime#13381: "int8 is not configured in the builder")."""
    return not graph.op_counts().keys().isdisjoint(("QuantizeLinear", "DequantizeLinear"))


@cache
def boards() -> Mapping[str, Board]:
    """Target name -> board."""
    return {name: Board(name, b["sm"], b["dla_cores"], b["jetpack"]) for name, b in _data()["boards"].items()}


def version(text: str) -> Version:
    """ "10.16.2" -> (10, 16, 2)."""
    return tuple(int(part) for part in text.split("."))


def _row(jetpack: str, board: str) -> Mapping[str, Any]:
    """The release of that name, or else the one whose name begins it: 6.2.1 is a 6.2."""
    rows: Sequence[Mapping[str, Any]] = _data()["jetpacks"]
    named = {r["name"]: r for r in rows}
    parts = jetpack.strip().split(".")
    while parts:
        if (found := named.get(".".join(parts))) is not None:
            return found
        parts.pop()
    runs = ", ".join(r["name"] for r in rows if board in r["boards"])
    raise error("EC0690", f"no JetPack {jetpack!r} is known", hint=f"{board} runs {runs}")


@cache
def _data() -> Mapping[str, Any]:
    from importlib.resources import files

    from edgec.specs import yaml_file

    doc = yaml_file.read(files("edgec.specs").joinpath("jetpack.yaml"))
    if doc.errors:
        raise EdgecError(*doc.errors)
    data: Mapping[str, Any] = doc.data
    return data
