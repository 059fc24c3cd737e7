"""Build, and build again without the SDK's own graph rule that crashed.

RKNN-Toolkit2's optimiser is a set of named rules; some crash on graphs that are perfectly fine (2.5.0: fuse_pad_into_conv
on read-only weights). `rknn.config(disable_rules=[...])` is
Rockchip's own way round. The result is simulated and compared like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.target import EmitJob
    from edgec.toolchain import Answer, Toolchain

WORKER = Path(__file__).with_name("worker.py")
MOST_RULES = 8

_CRASHED_RULE = re.compile(r"in rknn\.api\.rules\.\w+\._p_(\w+)")


def build_with_retries(
    toolchain: Toolchain, request: Mapping[str, Any], folder: Path, timeout: float, job: EmitJob
) -> Answer:
    """Run the worker; each rule that crashes is disabled and said as a warning (EC0464). Other failures are raised."""
    from edgec.toolchain import WorkerError

    disabled: list[str] = list(request["config"].get("disable_rules", ()))
    while True:
        config = {**request["config"], **({"disable_rules": [*disabled]} if disabled else {})}
        log = job.logs / (f"rknn-{len(disabled)}.log" if disabled else "rknn.log")
        full = {**request, "config": config}
        try:
            if job.worker is not None and not disabled:
                return job.worker.run(full, timeout=timeout, progress=job.progress)
            return toolchain.run(WORKER, full, workdir=folder, timeout=timeout, log=log, progress=job.progress)
        except WorkerError as e:
            rule = crashed_rule(e.log) if e.reason == "failed" else None
            if rule is None or rule in disabled or len(disabled) >= MOST_RULES:
                raise
            disabled.append(rule)
            message = f"the SDK's own rule {rule!r} crashed on this graph; it was switched off and the build repeated"
            hint = "the artifact was simulated and compared as usual; the log of the crash is kept"
            job.diagnostics.warn("EC0464", message, hint=hint)


def crashed_rule(log: Path | None) -> str | None:
    """The rule whose function is deepest in the last traceback of the log."""
    if log is None or not log.is_file():
        return None
    found = _CRASHED_RULE.findall(log.read_text(encoding="utf-8", errors="replace"))
    return found[-1] if found else None
