"""`edgec new`: a plugin package of your own, complete with tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.scaffold import Kind

app = single(no_args_is_help=True, help="Make a plugin package with a target or a pass of your own, tests included.")

Name = Annotated[str, typer.Argument(help="Small letters, digits and dashes: acme-a1.", show_default=False)]
Folder = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Default: edgec-<name>.")]


@app.command()
def target(name: Name, output: Folder = None) -> int:
    """A package with a target: spec, op table, pipeline, a pass, an emitter, a runner, and tests that pass."""
    return _make("target", name, output)


@app.command("pass")
def pass_command(name: Name, output: Folder = None) -> int:
    """A package with a pass: one rule, and tests that pass."""
    return _make("pass", name, output)


def _make(kind: Kind, name: str, output: Path | None) -> int:
    from edgec.scaffold import create

    folder = create(kind, name, output)
    console = Console()
    console.line(f"made {folder}", "title")
    for path in sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file()):
        console.line(f"  {path}")
    console.line(
        f"next: cd {folder} && pip install -e . && pytest && edgec {'targets' if kind == 'target' else 'passes'} {name}"
    )
    return 0
