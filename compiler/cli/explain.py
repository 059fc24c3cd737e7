"""`edgec explain`: the page of a diagnostic code."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli.app import single

app = single()


@app.command()
def explain(
    code: Annotated[
        str | None, typer.Argument(help="Such as EC0401; without it: all codes.", show_default=False)
    ] = None,
) -> int:
    """Explain a diagnostic: what it means, why it happens, what to do."""
    from edgec.explain import page, titles

    if code is None:
        for known, title in titles().items():
            typer.echo(f"{known}  {title}")
    else:
        typer.echo(page(code))
    return 0
