"""`edgec passes`: the list, and one pass with its options."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.pipeline import Pass

app = single()


@app.command()
def passes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One pass in detail.", show_default=False)
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """List the passes that are installed, plugins' included; or show one: what it promises, its options and rules."""
    from edgec.diagnostics import did_you_mean, error
    from edgec.plugins import Registry

    console = Console(as_json=as_json, quiet=quiet)
    registry = Registry()
    known = registry.passes()
    if name is not None and name not in known:
        raise error(
            "EC0202", f"no pass is called {name!r}", hint=did_you_mean(name, [*known], "`edgec passes` lists them")
        )
    if name is None:
        data = [describe(n, known[n], known.plugin(n)) for n in known]
        console.table(("pass", "contract", ""), [(d["name"], d["contract"], d["doc"].partition("\n")[0]) for d in data])
        console.data(data)
    else:
        _detail(describe(name, known[name], known.plugin(name)), console)
    console.diagnostics(registry.diagnostics)
    return 0


def describe(name: str, cls: type[Pass], plugin: str) -> dict[str, Any]:
    """Plain data about a pass class. The text is its docstring, after its module's where it has none or begins with an
    option (a file holds one pass)."""
    own = cls.__doc__ or ""
    if own.startswith(f"{cls.__name__}("):  # what @dataclass writes
        own = ""
    if not own or own.startswith("`"):
        module = inspect.getmodule(cls)
        own = "\n\n".join(inspect.cleandoc(text) for text in (module.__doc__ if module else None, own) if text)
    options = [
        {"name": f.name.replace("_", "-"), "type": str(f.type), "default": _default(f)} for f in dataclasses.fields(cls)
    ]
    rules = getattr(cls, "rules", None)
    return {
        "name": name,
        "plugin": plugin,
        "contract": cls.contract,
        "doc": inspect.cleandoc(own),
        "options": options,
        "rules": [str(getattr(r, "name", r)) for r in getattr(rules, "rules", ())],
        "requires": sorted(cls.requires),
        "establishes": sorted(cls.establishes),
        "invalidates": sorted(cls.invalidates),
    }


def _default(f: dataclasses.Field[Any]) -> Any:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return None if f.default is dataclasses.MISSING else f.default


def _detail(d: dict[str, Any], console: Console) -> None:
    console.line(f"{d['name']} ({d['contract']}, from plugin {d['plugin']})", "title")
    for line in d["doc"].splitlines():
        console.line(f"  {line}".rstrip())
    for option in d["options"]:
        console.line(f"  option {option['name']}: {option['type']}, default {option['default']!r}")
    for key in ("requires", "establishes", "invalidates", "rules"):
        if d[key]:
            console.line(f"  {key}: {', '.join(d[key])}")
    console.data(d)
