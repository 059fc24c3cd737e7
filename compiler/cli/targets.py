"""`edgec targets`: the list, and one target in detail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.specs.conditions import When
    from edgec.specs.op_table import OpCase
    from edgec.specs.schema import OpTable, TargetSpec
    from edgec.target import Target

app = single()


@app.command()
def targets(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One target in detail.", show_default=False)
    ] = None,
    ops: Annotated[
        bool, typer.Option("--ops", help="The op table: who runs each op, the conditions, who says so.")
    ] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """List the targets that are installed, plugins' included; or show one: precisions, options, limits, op table."""
    from edgec.plugins import Registry

    console = Console(as_json=as_json, quiet=quiet)
    registry = Registry()
    if name is None:
        if ops:
            raise typer.BadParameter("give the name of a target", param_hint="--ops")
        code = _list(registry, console)
    else:
        target = registry.target(name)
        spec = target.spec()
        console.data(spec.model_dump(mode="json") | {"options": dict(target.options)})
        _detail(target, spec, registry.targets().plugin(name), console)
        if ops:
            _ops(spec, console)
        code = 0
    console.diagnostics(registry.diagnostics)
    return code


def _list(registry: Any, console: Console) -> int:
    """One line a target. One whose spec is broken is listed with its error; exit code 1 then."""
    from edgec.cli import ERROR, OK
    from edgec.diagnostics import EdgecError

    found = registry.targets()
    rows, data, broken = [], [], False
    for name in found:
        try:
            spec = found[name](name).spec()
        except EdgecError as e:
            broken = True
            rows.append((name, "", "", "", f"broken: {e.diagnostics[0].code}: {e.diagnostics[0].message}"))
            data.append({"name": name, "plugin": found.plugin(name), "error": [d.to_json() for d in e.diagnostics]})
            continue
        sdk = f"{spec.toolchain.name} {spec.toolchain.version}" if spec.toolchain is not None else "none needed"
        rows.append((name, spec.vendor, ", ".join(spec.choices), sdk, spec.description))
        entry = {"name": name, "vendor": spec.vendor, "description": spec.description, "plugin": found.plugin(name)}
        entry |= {"precisions": spec.choices, "default_precision": spec.default_precision, "toolchain": sdk}
        data.append(entry)
    console.table(("target", "vendor", "precisions", "toolchain", "description"), rows)
    console.data(data)
    return ERROR if broken else OK


def _detail(target: Target, spec: TargetSpec, plugin: str, console: Console) -> None:
    console.line(f"{target.name}: {spec.description}", "title")
    console.line(f"  {spec.vendor}, family {spec.family}; from plugin {plugin}")
    sdk = f"{spec.toolchain.name} {spec.toolchain.version}" if spec.toolchain is not None else "none needed"
    console.line(f"  toolchain: {sdk}; run on this host by: {spec.runner}")
    shapes = "fixed shapes only" if spec.static_shapes else "dynamic shapes allowed"
    console.line(f"  ONNX opset up to {spec.opset}; {shapes}" + (f"; layout {spec.layout}" if spec.layout else ""))
    console.line("precisions", "heading")
    for name, p in spec.precisions.items():
        default = " (default)" if name == spec.default_precision else ""
        calibration = "; needs calibration data" if p.calibration else ""
        if p.variant_of is not None:
            where = f" on {p.device}" if p.device is not None else ""
            console.line(f"    {p.variant_of} by options{where}: {name}{calibration}", "dim")
            continue
        console.line(f"  {name}{default}: weights {p.weights}, activations {p.activations}{calibration}")
    for name, why in spec.unavailable.items():
        console.line(f"  {name}: not offered: {why}", "dim")
    if target.options:
        console.line("options (--option key=value)", "heading")
        for name, text in target.options.items():
            console.line(f"  {name}: {text}")
    if spec.alignment:
        console.line("alignment: " + ", ".join(f"{k} {n}" for k, n in spec.alignment.items()))
    for note in spec.notes:
        console.line(f"  note: {note}", "dim")
    console.line(f"  evidence: {spec.evidence}", "dim")


def _ops(spec: TargetSpec, console: Console) -> None:
    tables = {t.name: t for t in (spec.op_table, *(p.op_table for p in spec.precisions.values())) if t is not None}
    for table in tables.values():
        _table(table, console)


def _table(table: OpTable, console: Console) -> None:
    console.line(f"op table {table.name}: {table.description}", "heading")
    rows = [_case("(every op)", case, table.evidence) for case in table.general]
    for op, row in sorted(table.ops.items()):
        rows.append((op, row.run, "", row.reason or row.note or "", row.evidence or table.evidence))
        rows.extend(_case("", case, row.evidence or "") for case in row.cases)
    rows.append(("(any other)", table.unlisted.run, "", table.unlisted.reason or "", table.unlisted.evidence or ""))
    console.table(("op", "runs on", "condition", "why", "evidence"), rows)
    if table.units:
        console.line("fused units", "heading")
        console.table(("unit", "pattern", "evidence"), [(u.name, u.pattern, u.evidence) for u in table.units])


def _case(op: str, case: OpCase, evidence: str) -> tuple[str, ...]:
    return op, case.run, f"if {_when(case.when)}", case.reason or "", case.evidence or evidence


def _when(when: When) -> str:
    return ", ".join(f"{k} {_condition(v)}" for k, v in when.model_dump(exclude_defaults=True).items())


def _condition(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (dict, list, tuple)) else str(value)
