"""`edgec toolchain`: vendor SDKs, each in an environment of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

app = single(no_args_is_help=True, help="List, install, remove or examine vendor SDKs.")

Name = Annotated[str, typer.Argument(help="A name of `edgec toolchain list`.", show_default=False)]


@app.command("list")
def list_command(as_json: o.Json = False, toolchain: o.ToolchainPath = None) -> int:
    """List the toolchains, whether they are installed, and where."""
    from edgec.summary import size

    console = Console(as_json=as_json)
    found = _manager(toolchain=toolchain).list()
    rows = []
    for t in found:
        state = "installed" if t.installed else "not installed"
        where = f"{t.path} ({size(t.size_bytes)})" if t.path is not None else ""
        rows.append((t.name, t.sdk, t.version, state, " ".join(x for x in (where, t.problem) if x)))
    console.table(("toolchain", "SDK", "version", "state", "where"), rows)
    console.data(found)
    return 0


@app.command()
def install(name: Name, offline: o.Offline = False, quiet: o.Quiet = False) -> int:
    """Make the SDK's environment from its lock file, if it is not there. `compile` does it when it needs one."""
    console = Console(quiet=quiet)
    with console.progress() as tell:
        ready = _manager(offline=offline, progress=tell).install(name)
    console.line(f"{ready.sdk} {ready.versions.get(ready.sdk, '')} is ready: {ready.python}")
    return 0


@app.command()
def remove(name: Name) -> int:
    """Delete the SDK's environments, those of older versions too."""
    gone = _manager().remove(name)
    console = Console()
    for path in gone:
        console.line(f"removed {path}")
    if not gone:
        console.line(f"{name} is not installed")
    return 0


@app.command()
def doctor(
    name: Annotated[str | None, typer.Argument(help="Only this one.", show_default=False)] = None,
    toolchain: o.ToolchainPath = None,
    as_json: o.Json = False,
) -> int:
    """Really import the SDKs that are installed, and compare their packages with the lock. Exit code 4 if one is bad."""
    console = Console(as_json=as_json)
    return report_checks(_manager(toolchain=toolchain).doctor(name), console)


def report_checks(checks: Any, console: Console) -> int:
    """Print checks; 0 if all are good, else 4."""
    from edgec.cli import OK, TOOLCHAIN

    checks = list(checks)
    for check in checks:
        console.line(f"{'ok ' if check.ok else 'BAD'} {check.what}", "text" if check.ok else "error")
        if check.hint:
            console.line(f"    {check.hint}", "dim")
    console.data(checks)
    return OK if all(c.ok for c in checks) else TOOLCHAIN


def _manager(*, offline: bool = False, toolchain: list[str] | None = None, progress: Any = None) -> Any:
    from edgec.plugins import Registry

    return o.toolchains(offline, toolchain, Registry(), progress)
