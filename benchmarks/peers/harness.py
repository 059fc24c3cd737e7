"""What every worker shares: read the job, quantise, say how long it took and how much memory it held.

    python <tool>.py SOURCE.onnx CALIBRATION_FOLDER OUT.onnx [OPTION=VALUE ...]

CALIBRATION_FOLDER holds one .npz a sample (an array for each model input). The worker runs in its tool's own environment, so
this module imports nothing but numpy. The last line of its standard output is a JSON object: `import_seconds`,
`quantize_seconds`, `peak_mb` (VmHWM of the process: what it held at most, its libraries included) and `versions`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

STARTED = time.perf_counter()


@dataclass(frozen=True)
class Job:
    """One model to quantise. The source is a private copy: a tool that writes into its input harms nobody."""

    source: Path
    samples: list[Path]
    out: Path
    options: dict[str, str]

    def feeds(self) -> Iterator[dict[str, np.ndarray]]:
        """The calibration samples one by one, read when they are asked for."""
        for path in self.samples:
            with np.load(path) as z:
                yield {k: z[k] for k in z.files}

    @property
    def input_name(self) -> str:
        """The only input; tools that take tensors without names need it."""
        names = list(next(self.feeds()))
        if len(names) != 1:
            raise SystemExit(f"this worker quantises models of one input, not of {len(names)}")
        return names[0]


def work(quantize: Callable[[Job], None], packages: tuple[str, ...] = ()) -> None:
    """Run `quantize` (which writes job.out) on the job of the command line, and report."""
    source, folder, out, *rest = sys.argv[1:]
    job = Job(Path(source), sorted(Path(folder).glob("*.npz")), Path(out), dict(x.split("=", 1) for x in rest))
    if not job.samples:
        raise SystemExit(f"no .npz sample in {folder}")
    imported = time.perf_counter()
    quantize(job)
    done = time.perf_counter()
    report = {
        "import_seconds": imported - STARTED,
        "quantize_seconds": done - imported,
        "peak_mb": peak_mb(),
        "versions": {p: installed(p) for p in packages},
    }
    print("\n" + json.dumps(report), flush=True)


def peak_mb() -> float:
    """Peak resident memory as the process itself sees it: ru_maxrss of a child also counts the parent it was forked from."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
