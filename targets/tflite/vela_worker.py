"""Worker script: one int8 `.tflite` file through Arm Vela, the Ethos-U compiler.

Runs in the SDK's environment: standard library and ethosu only.

Request (file names relative to the folder)
    model            the file
    accelerator      "ethos-u55-128" ...
    system_config    a System_Config of the .ini: clock and memories, "Ethos_U55_High_End_Embedded" ...
    memory_mode      a Memory_Mode of the .ini: "Shared_Sram", "Sram_Only", "Dedicated_Sram" ...
    config           the .ini, relative to the folder; None: Arm/vela.ini, which comes with Vela
    options          more arguments of the command line, unchecked here
Answer
    artifact         the compiled file; operators the NPU takes are in it as CUSTOM "ethos-u"
    summary          {column of Vela's summary: number or text}; memory in KiB, inference_time in seconds
    layers           a row for each operation Vela made, in order: {column of its per-layer table: number or text}
    version          of Vela

Vela ends with 0 when nothing runs on the NPU: count "Target" in `layers`.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

PROTOCOL = 1

_main: Any = None


class SdkFailure(RuntimeError):
    """Vela refused. `details` travels with the answer."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = {}


def prepare(job: Any) -> None:
    job.step("import")
    global _main
    from ethosu.vela.vela import main

    _main = main


def run(job: Any) -> dict[str, Any]:
    request = job.request
    model = job.folder / request["model"]
    out = job.folder / "vela"
    shutil.rmtree(out, ignore_errors=True)  # what another configuration left there
    out.mkdir()
    config = request.get("config")
    arguments = [
        str(model),
        f"--accelerator-config={request['accelerator']}",
        f"--system-config={request['system_config']}",
        f"--memory-mode={request['memory_mode']}",
        f"--config={job.folder / config if config else 'Arm/vela.ini'}",
        f"--output-dir={out}",
        "--verbose-performance",  # writes the per-layer table
        "--show-cpu-operations",
        *request.get("options", ()),
    ]
    job.step("vela")
    _vela(job, arguments)
    job.step("read what it wrote")
    (summary,) = _table(_only(out, f"{model.stem}_summary_*.csv"))
    return {
        "artifact": str(_only(out, f"{model.stem}_vela.tflite").relative_to(job.folder)),
        "summary": summary,
        "layers": _table(_only(out, f"{model.stem}_per-layer.csv")),
        "version": _version(),
    }


def _vela(job: Any, arguments: list[str]) -> None:
    """Vela fails in three ways: an exception, sys.exit with a number or a text, a return code."""
    before = len(job.log_text())
    try:
        code = _main(arguments)
    except SystemExit as e:
        code = e.code
    except Exception as e:  # its own words matter, and where it happened goes to the log
        import traceback

        traceback.print_exc()
        raise SdkFailure(" ".join(str(e).split()) or type(e).__name__) from e
    if code not in (0, None):
        said = [line.strip() for line in job.log_text()[before:].splitlines() if "error" in line.lower()]
        raise SdkFailure(said[-1] if said else f"Vela ended with {code}")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SdkFailure(f"Vela reported success and left {len(found)} files {pattern}")
    return found[0]


def _table(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as f:
        return [{column: _value(column, text) for column, text in row.items()} for row in csv.DictReader(f)]


_TEXTS = ("experiment", "network", "Name")  # names may look like numbers


def _value(column: str, text: str) -> Any:
    if column not in _TEXTS:
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _version() -> str:
    from importlib import metadata

    return metadata.version("ethos-u-vela")
