"""TensorRT-RTX as an oracle: would NVIDIA's own ONNX parser take this file, and does it build? No GPU is needed.

    verdict = judge(Path("model.onnx"), toolchains, workdir=folder)
    verdict.parsed, verdict.refusals, verdict.warnings, verdict.built

It is evidence about the file, not about a board: TensorRT-RTX builds for desktop GPUs, has no plugin library and no DLA, and
other TensorRT versions differ. "The parser accepts it" is never "it builds on Orin".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.toolchain import WorkerError

if TYPE_CHECKING:
    from edgec.toolchain import Toolchain, ToolchainManager

TOOLCHAIN = "tensorrt-rtx"
WORKER = Path(__file__).with_name("rtx_worker.py")

PORTABLE = "portable"
"""The capability that is none: a plan for every GPU TensorRT-RTX serves."""

Profile = Mapping[str, Sequence[Sequence[int]]]
"""Input -> smallest, optimal and largest shape."""

_NO_PLUGIN = ("plugin not found", "no importer registered for op", "plugin registry")
_PLUGIN_BACKED = frozenset({"DeformConv", "RoiAlign", "NonZero", "LinearAttention", "CausalConvWithState"})
"""ONNX ops that TensorRT computes with plugins, which TensorRT-RTX does not have (onnx-tensorrt docs/operators.md, 10.15)."""


@dataclass(frozen=True)
class Refusal:
    """What the parser said no to. `node` is the ONNX node's name, empty where it has none; `index` its place in the file."""

    node: str
    op: str
    message: str
    code: str = ""
    index: int = -1

    @property
    def needs_plugin(self) -> bool:
        """TensorRT may take it with its plugin library, which TensorRT-RTX does not have: this is no verdict."""
        said = self.message.lower()
        return self.op in _PLUGIN_BACKED or any(words in said for words in _NO_PLUGIN)

    def to_json(self) -> dict[str, Any]:
        return {"node": self.node, "op": self.op, "message": self.message, "code": self.code}


@dataclass(frozen=True)
class Verdict:
    """`built`: for each compute capability the bytes of the plan, or why there is none. `refusals`: the parser stops at
    the first. `warnings`: what it took and computes in another way, such as uint8 as int8.
    """

    parsed: bool
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]
    built: Mapping[str, int | str]
    version: str
    layers: int = 0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    product: str = "TensorRT-RTX"

    @property
    def by(self) -> str:
        return f"{self.product} {self.version}"

    @property
    def cannot_say(self) -> bool:
        """Refused for want of a plugin only, which a TensorRT with its plugin library may have."""
        return not self.parsed and bool(self.refusals) and all(r.needs_plugin for r in self.refusals)

    @property
    def accepted(self) -> bool:
        """Parsed, and built for every capability asked for."""
        return self.parsed and all(isinstance(b, int) for b in self.built.values())

    @property
    def summary(self) -> str:
        """For people, in one line."""
        by = self.by
        if self.cannot_say:
            return f"{by} cannot say: it has no plugin library, and {self.refusals[0].op} is a plugin"
        if not self.parsed:
            r = self.refusals[0]
            return f"{by} refuses {' '.join(filter(None, (r.op, r.node))) or 'the file'}: {r.message}"
        good = [c for c, b in self.built.items() if isinstance(b, int)]
        bad = [f"not for {c}: {b}" for c, b in self.built.items() if isinstance(b, str)]
        return "; ".join(
            [f"{by} parses it ({self.layers} layers)", *(["builds for " + ", ".join(good)] if good else []), *bad]
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "parsed": self.parsed,
            "cannot_say": self.cannot_say,
            "layers": self.layers,
            "refusals": [r.to_json() for r in self.refusals],
            "warnings": list(self.warnings),
            "built": dict(self.built),
        }


def at_hand(toolchains: ToolchainManager) -> bool:
    """Whether the oracle can be asked without installing anything."""
    return TOOLCHAIN in toolchains.overrides or any(s.name == TOOLCHAIN and s.installed for s in toolchains.list())


def judge(
    model: Path,
    toolchains: ToolchainManager,
    *,
    workdir: Path,
    capabilities: Sequence[str] = ("sm86", "sm89"),
    profiles: Sequence[Profile] = (),
    timeout: float = 600.0,
) -> Verdict:
    """What TensorRT-RTX says of one ONNX file.

    `capabilities`: "sm86"; "sm86+sm89" is one plan for both, "portable" one for all; none: it is parsed only. `profiles`
    give the shapes of inputs with dynamic dimensions, without which nothing is built. `workdir` takes copies and logs.

    Raises:
        EdgecError: EC0603 to EC0613 the toolchain cannot be had; EC0623 to EC0628 it gave no answer. A crash of parser or
            builder is part of the verdict.
    """
    return judge_all(
        [model], toolchains, workdir=workdir, capabilities=capabilities, profiles=[profiles], timeout=timeout
    )[0]


def judge_all(
    models: Sequence[Path],
    toolchains: ToolchainManager,
    *,
    workdir: Path,
    capabilities: Sequence[str] = ("sm86", "sm89"),
    profiles: Sequence[Sequence[Profile]] | None = None,
    timeout: float = 600.0,
) -> list[Verdict]:
    """The same for many files, in one process where none crashes it. `profiles`: one entry a model. `timeout` is for all."""
    toolchain = toolchains.ensure(TOOLCHAIN)
    workdir.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path | bytes] = {}
    tasks: list[dict[str, Any]] = []
    for i, model in enumerate(models):
        files.update({f"{i}/{name}": path for name, path in model_files(model).items()})
        tasks.append({
            "id": i,
            "model": f"{i}/{model.name}",
            "profiles": [_plain(p) for p in (profiles[i] if profiles is not None else ())],
            "builds": [{"name": c, "capabilities": sm_names(c), "plan": None} for c in capabilities],
        })  # fmt: skip
    crashed: dict[int, dict[str, str]] = {i: {} for i in range(len(models))}
    results = ask(toolchain, tasks, crashed, files=files, workdir=workdir, timeout=timeout)
    return [verdict_of(results[i], crashed[i], capabilities, toolchain) for i in range(len(models))]


def ask(
    toolchain: Toolchain,
    tasks: Sequence[dict[str, Any]],
    crashed: dict[int, dict[str, str]],
    *,
    files: Mapping[str, Path | bytes],
    workdir: Path,
    timeout: float,
    log: Path | None = None,
) -> dict[int, Path | None]:
    """Run the worker until every task has a result or has crashed it; by task the file with the result, or None.

    What crashed (the parser: "parse", a build: its name) is put into `crashed`, with what happened, and not tried again.
    """
    for task in tasks:  # of an earlier call in this folder
        (workdir / "results" / f"{task['id']}.json").unlink(missing_ok=True)
    results: dict[int, Path | None] = {}
    left = list(tasks)
    while left:
        try:
            toolchain.run(
                WORKER, {"models": left}, workdir=workdir, files=files, timeout=timeout, log=log, progress=_quiet
            )
        except WorkerError as e:
            what, _, rest = (e.step or "").partition(" ")
            if e.reason not in ("crash", "exit", "timeout", "memory", "log-size") or what not in ("parse", "build"):
                raise
            number, _, build = rest.partition(": ")
            crashed[int(number)][build or "parse"] = e.diagnostics[0].message
        files = {}  # they are there
        results = {t["id"]: path for t in tasks if (path := workdir / "results" / f"{t['id']}.json").is_file()}
        left = [
            {**t, "builds": [b for b in t["builds"] if b["name"] not in crashed[t["id"]]]}
            for t in left
            if t["id"] not in results and "parse" not in crashed[t["id"]]
        ]
    return {t["id"]: results.get(t["id"]) for t in tasks}


def _quiet(step: str) -> None:
    """The worker's steps are numbers of models: nothing for people."""


def verdict_of(
    result: Path | None, crashed: Mapping[str, str], capabilities: Sequence[str], toolchain: Toolchain
) -> Verdict:
    """From the worker's file, and what crashed it (see `ask`)."""
    version = toolchain.versions.get("tensorrt-rtx-cu12-bindings", toolchain.versions.get(toolchain.sdk, "?"))
    if result is None:
        why = crashed["parse"]
        return Verdict(False, (Refusal("", "", why),), (), dict.fromkeys(capabilities, why), version)
    data = json.loads(result.read_text(encoding="utf-8"))
    refusals = tuple(Refusal(r["node"], r["op"], r["message"], r["code"], r["index"]) for r in data["refusals"])
    built: dict[str, int | str] = {}
    for name in capabilities:
        build = data["builds"].get(name)
        built[name] = crashed[name] if build is None else build.get("bytes", build.get("reason", ""))
    return Verdict(
        data["parsed"],
        refusals,
        tuple(data["warnings"]),
        built,
        version,
        data["layers"],
        data["inputs"],
        data["outputs"],
    )


def sm_names(capability: str) -> list[str]:
    """As the SDK calls them: "sm86+sm89" is SM86 and SM89, "portable" none."""
    return [] if capability == PORTABLE else [c.strip().upper() for c in capability.split("+")]


def _plain(profile: Profile) -> dict[str, list[list[int]]]:
    return {name: [list(map(int, shape)) for shape in shapes] for name, shapes in profile.items()}


def model_files(model: Path) -> dict[str, Path]:
    """An ONNX file and the files its weights lie in, by their names relative to it."""
    from edgec.graph import ir

    files = {model.name: model}
    try:
        loaded = ir.load(model)
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, the parser is the one asked about it
        return files
    for graph in (loaded.graph, *loaded.graph.subgraphs()):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                files[Path(value.const_value.location).as_posix()] = Path(value.const_value.path)
    return files
