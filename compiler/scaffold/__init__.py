"""`edgec new`: plugin packages that install and pass their own tests before a line is changed.

A template is a folder of `*.tmpl` files in which `my-name`, `my_name` and `MyName` stand for the name, in contents and in
paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from edgec.diagnostics import Location, error
from edgec.output import writing

Kind = Literal["target", "pass"]


def create(kind: Kind, name: str, folder: Path | None = None) -> Path:
    """Write a package into `folder` (default: edgec-<name>), which must not exist or be empty. Returns the folder.

    Raises:
        EdgecError: EC0920 the name cannot name a package, or a target or pass has it already; EC0921 the folder is not empty; EC0903 it cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        hint = "small letters, digits and single dashes, a letter first: acme-a1"
        raise error("EC0920", f"{name!r} cannot name a plugin", hint=hint)
    _check_free(kind, name)
    folder = Path(f"edgec-{name}") if folder is None else folder
    with writing(folder):
        if folder.exists() and any(folder.iterdir()):
            raise error("EC0921", "the folder is not empty", Location(str(folder)), "give a new one with --output")
        for path, text in _files(files(__name__).joinpath("templates", kind)):
            target = folder / _filled(path, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(text, name), encoding="utf-8")
    return folder


def _check_free(kind: Kind, name: str) -> None:
    """Two plugins that offer one name cannot be installed together."""
    from edgec.plugins import Registry

    registry = Registry()
    taken = registry.targets() if kind == "target" else registry.passes()
    if name in taken:
        hint = f"another name; `edgec {'targets' if kind == 'target' else 'passes'}` lists those that are taken"
        raise error("EC0920", f"there is a {kind} {name!r} already, of plugin {taken.plugin(name)}", hint=hint)


def _files(source: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for entry in sorted(source.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".tmpl"):
            yield prefix + entry.name.removesuffix(".tmpl"), entry.read_text(encoding="utf-8")


def _filled(text: str, name: str) -> str:
    words = {
        "my-name": name,
        "my_name": name.replace("-", "_"),
        "MyName": "".join(part.capitalize() for part in name.split("-")),
    }
    return re.sub("|".join(words), lambda m: words[m[0]], text)
