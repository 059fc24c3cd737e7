"""`edgec check`: who would run each node, on one target or on all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console
from edgec.cli.opt import spare_the_source

if TYPE_CHECKING:
    from edgec.diagnostics import Diagnostic, EdgecError
    from edgec.placement import Placement

app = single()


@app.command()
def check(
    model: o.Model,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="A name of `edgec targets`; repeat for more.")
    ] = None,
    all_targets: Annotated[bool, typer.Option("--all-targets", help="Every target that is installed.")] = False,
    precision: o.Precision = None,
    jetpack: o.Jetpack = None,
    dla: o.Dla = False,
    option: o.TargetOptions = None,
    input_shape: o.InputShape = None,
    no_fallback: o.NoFallback = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every node.")] = False,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="FILE",
            help="Mend Q/DQ the target would misread, where no number changes; write and check that.",
        ),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Run each target's passes on the model and show where every node would run, and why. Needs no vendor SDK.

    A model that has Q/DQ is held against the rules of the target's scheme; --fix FILE mends what can be mended exactly.

    Exit code 1 where a node is impossible, or off the accelerator with --no-fallback.
    """
    from edgec import api
    from edgec.diagnostics import Diagnostics, EdgecError
    from edgec.graph import Graph
    from edgec.output import check_writable, writing
    from edgec.plugins import Registry

    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    found = Diagnostics()
    registry = Registry()
    found.items.extend(registry.diagnostics)
    if bool(target) == all_targets:
        raise typer.BadParameter("give --target NAME (several if you like), or --all-targets", param_hint="--target")
    options = o.target_options(option, jetpack=jetpack, dla="true" if dla else None)
    names = list(registry.targets()) if all_targets else list(dict.fromkeys(target or ()))
    graph = Graph.load(model, diagnostics=found)
    fixed: dict[str, int] = {}
    if fix is not None:
        if len(names) != 1:
            raise typer.BadParameter("a model is mended for one target", param_hint="--fix")
        spare_the_source(model, fix)
        check_writable(fix)
        fixed = api.fix(graph, names[0], precision=precision, options=options, registry=registry, diagnostics=found)
        with writing(fix):
            fix.parent.mkdir(parents=True, exist_ok=True)
            graph.save(fix)
        what = ", ".join(f"{name} {n}" for name, n in fixed.items()) or "nothing to mend"
        console.line(f"{what}; written to {fix}")
    placed: dict[str, Placement] = {}
    failed: dict[str, EdgecError] = {}
    for name in names:
        try:
            given: dict[str, Any] = {"precision": precision, "input_shapes": input_shape or (), "options": options}
            placed |= api.check(graph, [name], registry=registry, diagnostics=found, **given)
        except EdgecError as e:
            if len(names) == 1:
                raise
            failed[name] = e
    verdicts = Diagnostics()
    for placement in placed.values():
        placement.diagnose(verdicts, no_fallback=no_fallback)
    if len(names) == 1 or nodes:
        for placement in placed.values():
            _one(placement, console, nodes)
    else:
        _table(names, placed, failed, console)
    console.data(
        {
            "model": str(model),
            **({"fixed": fixed, "written": str(fix)} if fix is not None else {}),
            "targets": {n: placed[n].to_json() for n in placed},
            "failed": {n: [d.to_json() for d in e.diagnostics] for n, e in failed.items()},
        }
    )
    console.diagnostics([*found, *_once(failed), *(verdicts if len(names) == 1 else ())])
    bad = any(d.severity.name == "ERROR" for d in [*found, *verdicts])
    return 1 if bad or failed else 0


def _once(failed: Mapping[str, EdgecError]) -> list[Diagnostic]:
    """What targets could not be checked for, each thing once, with the targets it holds for."""
    where: dict[Diagnostic, list[str]] = {}
    for name, e in failed.items():
        for d in e.diagnostics:
            where.setdefault(d, []).append(name)
    return [replace(d, message=f"{d.message}; not checked: {', '.join(names)}") for d, names in where.items()]


def _one(p: Placement, console: Console, nodes: bool) -> None:
    counts = p.counts
    console.line(f"{p.target}, {p.precision}{', predicted' if p.predicted else ''}", "title")
    where = f"{_short(p.device)} {counts['accelerator']}"
    if not p.alone:
        where += f", {_short(p.other)} {counts['fallback']}"
    console.line(f"  {where}, impossible {counts['impossible']}")
    if p.macs:
        console.line(f"  {p.mac_share:.1%} of {p.macs / 1e6:,.0f} M multiply-adds on {p.device}")
    if p.islands:
        from edgec.summary import size

        islands = f"{len(p.islands)} island{'s' * (len(p.islands) > 1)}"
        crossing = f"{size(p.boundary_bytes)} cross to and from {'them' if len(p.islands) > 1 else 'it'}"
        console.line(f"  {islands} on {p.other}; {crossing}")
    if p.predicted:
        console.line(f"  {p.predicted}", "dim")
    if nodes and p.predicted:
        guesses = [(n.where, n.confidence or "low", n.op, n.node, n.reason or "", n.evidence) for n in p.nodes]
        console.table(("where", "confidence", "op", "node", "why", "evidence"), guesses)
    elif nodes:
        rows = [(n.where, n.op, n.node, n.unit or "", n.reason or "") for n in p.nodes]
        console.table(("where", "op", "node", "unit", "why"), rows)


def _short(device: str) -> str:
    return device.removeprefix("the ").replace(" the ", " ")


def _table(names: list[str], placed: dict[str, Placement], failed: dict[str, Any], console: Console) -> None:
    rows = []
    for name in names:
        if name in failed:
            rows.append((name, "", "", "", "", "", failed[name].diagnostics[0].code))
            continue
        p = placed[name]
        c = p.counts
        off = list(
            dict.fromkeys(f"{n.op}: {n.reason}" if n.reason else n.op for n in p.nodes if n.where != "accelerator")
        )
        share = f"{p.mac_share:.1%}" if p.macs else ""
        device, cpu = ("", str(c["accelerator"])) if p.on_cpu else (str(c["accelerator"]), str(c["fallback"]))
        if p.other != "the CPU" and c["fallback"]:
            cpu = f"{cpu} on {p.other}"
        why = (off[0] if len(off[0]) < 70 else off[0][:69] + "…") if off else ""
        more = f" (and {len(off) - 1} more)" if len(off) > 1 else ""
        rows.append((name, p.precision, device, cpu, str(c["impossible"]), share, why + more))
    console.table(("target", "precision", "accelerator", "CPU", "impossible", "work", "why not all"), rows)
