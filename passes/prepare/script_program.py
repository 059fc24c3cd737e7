"""A whole program that reads a model file and writes another, run in a process and a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgec.diagnostics import EdgecError, Location, error
from edgec.graph import Graph, ir

_SHOWN = 400


def run_program(
    script: Path, graph: Graph, arguments: Sequence[str], reads: str, writes: str, timeout: int = 600
) -> Graph:
    """What the program makes of `graph`. It sees the model as the file `reads` of its current folder.

    {input} and {output} in `arguments` stand for the two files; names without a folder.

    Raises:
        EdgecError: EC0311 it failed or took too long, with the line; EC0312 it wrote no readable model.
    """
    where = Location(str(script))
    for name in (reads, writes):
        if Path(name).name != name or name in (".", ".."):
            raise error("EC0312", f"{name!r} is not the name of a file", where, "the program has a folder of its own")
    with tempfile.TemporaryDirectory(prefix="edgec-script-") as folder:
        graph.save(Path(folder, reads))
        words = [w.replace("{input}", reads).replace("{output}", writes) for w in arguments]
        command = [sys.executable, str(script.resolve()), *words]
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            hint = "graphsurgeon{timeout=SECONDS} gives it more"
            raise error("EC0311", f"the program took more than {timeout} s", where, hint) from None
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode:
            raise _failed(script, done.returncode, said)
        return _result(Path(folder), reads, writes, where)


def _failed(script: Path, code: int, said: str) -> EdgecError:
    lines = re.findall(rf'File "{re.escape(str(script.resolve()))}", line (\d+)', said)
    last = said.splitlines()[-1][-_SHOWN:] if said else "it wrote no message"
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return error(
        "EC0311", f"the program failed ({how}): {last}", Location(str(script), int(lines[-1]) if lines else None)
    )


def _result(folder: Path, reads: str, writes: str, where: Location) -> Graph:
    path = folder / writes
    if not path.is_file():
        others = sorted(p.name for p in folder.glob("*.onnx") if p.name != reads)
        hint = f"it wrote {', '.join(others)}: say graphsurgeon{{writes={others[0]}}}" if others else (
            "it gets the files as arguments {input} {output}; `arguments`, `reads` and `writes` say it otherwise"
        )  # fmt: skip
        raise error("EC0312", f"the program wrote no file {writes}", where, hint)
    try:
        new = Graph.load(path)
    except EdgecError as e:
        message = f"what the program wrote cannot be read: {e.diagnostics[0].message}"
        raise error("EC0312", message, where) from e
    ir.external_data.load_to_model(new.model)  # the folder goes
    return new
