"""A command's wall time and the most memory it and its children held at one time."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.02


@dataclass(frozen=True)
class Watched:
    """`seconds`: wall time of the process. `cpu_seconds`: of it and its children, on all cores. `peak_mb`: of the sum of resident memory over it and all below it, looked at every
    20 ms (pages that several processes share count in each)."""

    returncode: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    stdout: str
    stderr: str


def watched(command: Sequence[str], *, folder: Path, timeout: float) -> Watched:
    """Run it in `folder`, where its output is kept as stdout.txt and stderr.txt. Raises subprocess.TimeoutExpired."""
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    with out.open("w") as o, err.open("w") as e:
        before = _children_cpu()
        start, peak = time.perf_counter(), 0.0
        process = subprocess.Popen(command, stdout=o, stderr=e, cwd=folder)
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            if time.perf_counter() - start > timeout:
                process.kill()
                process.wait()
                raise subprocess.TimeoutExpired(command, timeout)
            time.sleep(_EVERY)
        seconds = time.perf_counter() - start
    texts = (f.read_text(errors="replace") for f in (out, err))
    return Watched(process.returncode, seconds, _children_cpu() - before, peak, *texts)


def _children_cpu() -> float:
    """Of all that have ended; theirs are in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident(pid: int) -> float:
    """MB of the process and all below it; what has ended in between counts nothing."""
    total = 0.0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        total += next((int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS")), 0) / 1024
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {c for t in tasks for c in (t / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return total
    return total + sum(_resident(int(c)) for c in children)
