"""`edgec check-spec`: everything wrong with spec files, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console, print_diagnostics

app = single()


@app.command()
def check_spec_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files.", show_default=False)],
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Check spec files of targets, op tables and pipelines, with everything they extend and include; pass names too."""
    from edgec.cli import ERROR, OK
    from edgec.plugins import Registry
    from edgec.specs.schema import check_spec

    console = Console(as_json=as_json, quiet=quiet)
    known = list(Registry().passes())
    found = {str(path): check_spec(path, known) for path in files}
    for path, diagnostics in found.items():
        print_diagnostics(diagnostics)
        if not diagnostics and not quiet:
            console.line(f"{path}: good", "good")
    console.data(found)
    return ERROR if any(found.values()) else OK
