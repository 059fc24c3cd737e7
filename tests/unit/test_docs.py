"""What the documents show works: code runs, commands and options exist, projects are valid, links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.graph import Graph
from edgec.hookspecs import hookimpl
from edgec.pipeline import Pass, PassManager
from edgec.recipe import build_passes, parse_pipeline
from edgec.runtime import Session

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]

MODEL = """<ir_version: 10, opset_import: ["" : 19]>
    g (float[1,2,4,4] x) => (float[1,2,4,4] y)
    <float[2,2,1,1] w = {1, 2, 3, 4}, float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {0.5, 1}, float[2] v = {1, 4}>
    { c = Conv(x, w)  n = BatchNormalization(c, s, b, m, v)  y = Identity(n) }"""


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text for language, text in found if language in languages]


def run_block(page: str) -> dict[str, Any]:
    (code,) = blocks(ROOT / "docs" / page, "python")
    names: dict[str, Any] = {"__name__": f"docs.{Path(page).stem}"}
    exec(compile(code, page, "exec", dont_inherit=True), names)
    return names


# --- code ------------------------------------------------------------------------------------------------------------


def test_embedding(tmp_path: Path) -> None:
    graph = Graph.from_text(MODEL)
    graph.save(tmp_path / "in.onnx")
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "docs" / "embedding" / "embed.py", tmp_path / "in.onnx", tmp_path / "out.onnx"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fold-bn" in done.stdout
    out = Graph.load(tmp_path / "out.onnx")
    assert dict(out.op_counts()) == {"Conv": 1}
    x = {"x": np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)}
    np.testing.assert_allclose(Session(out).run(x)["y"], Session(graph).run(x)["y"], rtol=1e-5, atol=1e-5)


def test_embedding_leaves_no_trace(tmp_path: Path) -> None:
    """Twice in one process: nothing global stands in the way."""
    Graph.from_text(MODEL).save(tmp_path / "in.onnx")
    main = runpy.run_path(str(ROOT / "docs" / "embedding" / "embed.py"))["main"]
    for name in "ab":
        main(str(tmp_path / "in.onnx"), str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_writing_a_pass() -> None:
    made = run_block("writing-a-pass.md")["FuseRelu"]

    class Plugin:
        @hookimpl
        def edgec_passes(self) -> dict[str, type[Pass]]:
            return {made.name: made}

    registry = edgec.Registry(discover=False)
    registry.register(Plugin())
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 19]>
        g (float[2,3] x, float s) => (float[2,3] y, float[1] w) <float zero = {0}, float[1] one = {0}>
        { y = Max(zero, x)  w = Max(s, one) }"""
    )
    ctx = edgec.PassContext()
    (record,) = PassManager(build_passes(parse_pipeline("acme-fuse-relu"), registry.passes()), verify="structure").run(
        graph, ctx
    )
    assert dict(record.stats) == {"max-zero-is-relu": 1}
    assert graph.op_counts() == {"Relu": 1, "Max": 1}
    assert [*ctx.rejections["max-zero-is-relu"].values()] == ["the constant widens the shape"]


def test_pruning(capsys: pytest.CaptureFixture[str]) -> None:
    graph = run_block("pruning.md")["graph"]
    assert "'channels': 8" in capsys.readouterr().out
    assert [tuple(node.inputs[1].shape) for node in graph.nodes() if node.op_type == "Conv"] == [
        (8, 4, 1, 1),
        (4, 8, 1, 1),
    ]


def test_writing_a_target() -> None:
    made = run_block("writing-a-target.md")["AcmeA1"]

    class Acme(made):  # type: ignore[misc]  # the page leaves the spec to its own section
        def spec(self) -> Any:
            return edgec.Registry().target("x86-64").spec()

    class Plugin:
        @hookimpl
        def edgec_targets(self) -> dict[str, Any]:
            return {"acme-a1": Acme}

    registry = edgec.Registry()
    registry.register(Plugin())
    result = edgec.compile(Graph.from_text(MODEL), target="acme-a1", registry=registry)
    assert result.artifact.files == {"program.txt": b"Conv"}
    assert result.report.verification is not None
    assert any("not executed" in line for line in result.report.verification.not_verified)


# --- commands --------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) for every `edgec ...` in code blocks and in code spans."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fenced = "\n".join(blocks(page, "", "sh", "bash", "console")).replace("\\\n", " ")
        spans = re.findall(r"`(edgec [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        for line in [*fenced.splitlines(), *spans]:
            if m := re.match(r"(?:\$ )?(edgec .*)", line.strip()):
                yield page.relative_to(ROOT).as_posix(), m[1].split("  #")[0].strip()


SHOWN = sorted(set(commands()))


def click_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command `words` begin with, and the words after its name."""
    from importlib import import_module

    import typer

    from edgec.cli.app import COMMANDS

    assert words, "a command without a name"
    assert words[0] in COMMANDS, f"there is no command {words[0]!r}"
    command: Any = typer.main.get_command(import_module(COMMANDS[words[0]][0]).app)
    words = words[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_there_are_commands_in_the_documents() -> None:
    assert len(SHOWN) > 10
    assert {page for page, _ in SHOWN} >= {"README.md", "docs/tutorial.md"}


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_command_and_its_options_exist(page: str, line: str) -> None:
    first, *words = shlex.split(line)
    assert first == "edgec"
    if words[:1] == ["COMMAND"]:
        return
    command, rest = click_command(words)
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in rest:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"{page}: {line!r}: edgec {command.name} has no {word}"


# --- projects and links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["docs/project.md", "docs/tutorial.md"])
def test_projects_are_valid(page: str, tmp_path: Path) -> None:
    from edgec.project import Project

    names = edgec.Registry().targets()
    for text in blocks(ROOT / page, "yaml"):
        (tmp_path / "edgec.yaml").write_text(text, encoding="utf-8")
        jobs = Project.load(tmp_path / "edgec.yaml").jobs()
        assert len(jobs) >= 2
        assert all(job["target"] in names for job in jobs)


def links() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        prose = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose):
            if not re.match(r"[a-z]+:|#", link):
                yield page.relative_to(ROOT).as_posix(), link


@pytest.mark.parametrize(("page", "link"), sorted(set(links())))
def test_links_lead_somewhere(page: str, link: str) -> None:
    assert ((ROOT / page).parent / link.partition("#")[0]).exists()


def test_codes_in_the_documents_have_pages() -> None:
    shown = {c for page in PAGES for c in re.findall(r"\bEC0\d{3}\b", page.read_text(encoding="utf-8"))}
    assert shown
    assert [c for c in shown if not (ROOT / "compiler" / "explain" / f"{c}.md").is_file()] == []
