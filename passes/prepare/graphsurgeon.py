"""A script written for NVIDIA's ONNX GraphSurgeon as a step of a pipeline, as it is.

The script is the user's own code, named by the user: a function on a `gs.Graph` runs in this process; a whole program
runs in one of its own, in an empty folder that holds the model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from edgec.diagnostics import Location, error
from edgec.graph import Graph
from edgec.pipeline import Contract, Pass, PassContext, PassResult

if TYPE_CHECKING:
    from types import ModuleType

HINT = "graphsurgeon{interface=may-change} lets a script add and remove outputs"


@dataclass(frozen=True)
class GraphSurgeon(Pass):
    """`graphsurgeon{script=edit.py function=edit}`: the function gets a `gs.Graph` and edits it, or returns another.

    `script`: relative to the current folder, in edgec.yaml to that file. `function`: one of the script; without it the
    script runs as a program, with `arguments`, in which {input} and {output} stand for the files. A program that has
    the names of its files written into it gets them with `reads` and `writes`: its folder holds the model under
    that name. `interface=may-change`: the script may add and remove outputs (attach a suppression, cut a head). `timeout`: seconds
    a program has.

    Nodes that keep name and operator keep their provenance; others are marked as made by this pass.

    Raises:
        EdgecError: EC0310 no such script or function; EC0311 it failed, with the line; EC0312 a program wrote no model;
            EC0309 it changed the interface.
    """

    script: str
    function: str = ""
    arguments: tuple[str, ...] = ("{input}", "{output}")
    reads: str = "model.onnx"
    writes: str = "updated.onnx"
    interface: Literal["keep", "may-change"] = "keep"
    timeout: int = 600

    name: ClassVar[str] = "graphsurgeon"
    contract: ClassVar[Contract] = "lossy"
    invalidates: ClassVar[frozenset[str]] = frozenset(
        {"shapes-inferred", "no-functions", "constants-as-initializers", "opset-current", "bn-folded"}
    )

    @property
    def changes_interface(self) -> bool:
        """As `interface` says."""
        return self.interface == "may-change"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        from edgec.graphsurgeon import adopt

        path = Path(self.script)
        source = _read(path)
        if self.function:
            new = self._call(path, graph)
        else:
            from edgec.passes.prepare.script_program import run_program

            new = run_program(path, graph, self.arguments, self.reads, self.writes, self.timeout)
        result = adopt(graph, new, self.name, new_outputs=self.changes_interface, hint=HINT)
        ran = f"{self.function}() of {path.name}" if self.function else path.name
        sha = hashlib.sha256(source).hexdigest()
        ctx.diagnostics.note("EC0316", f"your own code changed the model: {ran}, SHA-256 {sha}", Location(str(path)))
        return result

    def _call(self, path: Path, graph: Graph) -> Graph:
        from edgec.diagnostics import EdgecError, did_you_mean
        from edgec.graphsurgeon import run_script

        module = _load(path)
        script = getattr(module, self.function, None)
        if not callable(script):
            functions = [
                n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
            ]
            hint = did_you_mean(self.function, functions, f"its functions: {', '.join(functions) or 'none'}")
            raise error("EC0310", f"{path.name} has no function {self.function!r}", Location(str(path)), hint)
        try:
            return run_script(script, self.name, graph)
        except EdgecError:
            raise
        except Exception as e:
            raise _failed(path, e) from e


def _read(path: Path) -> bytes:
    where = Location(str(path))
    try:
        return path.read_bytes()
    except FileNotFoundError:
        hint = f"the path is relative to {Path.cwd()}, in edgec.yaml to that file"
        raise error("EC0310", "there is no such script", where, None if path.is_absolute() else hint) from None
    except OSError as e:
        raise error("EC0310", f"cannot read the script: {e.strerror or e}", where) from None


def _load(path: Path) -> ModuleType:
    """The script as a module. Its folder is on the module search path while it is imported."""
    import importlib.util
    import sys

    name = f"_edgec_script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise error("EC0310", "this is not a Python file", Location(str(path)), "name a .py file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module  # dataclasses of the script look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:
        raise _failed(path, e, "a script that does its work at once runs as a program: leave `function` out") from e
    finally:
        sys.path.remove(folder)
        sys.modules.pop(name, None)
    return module


def _failed(path: Path, e: BaseException, hint: str | None = None) -> Exception:
    """EC0311 at the last line of the script that was running."""
    import traceback

    if isinstance(e, SyntaxError) and e.filename == str(path.resolve()):
        line: int | None = e.lineno
    else:
        frames = traceback.extract_tb(e.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == str(path.resolve())), None)
    text = " ".join(str(e).split())[:300]
    message = f"the script failed: {type(e).__name__}{': ' + text if text else ''}"
    return error("EC0311", message, Location(str(path), line), hint)
