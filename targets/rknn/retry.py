"""Build, and build again without the SDK's own graph rule that crashed.

RKNN-Toolkit2's optimiser is a set of named rules; some crash on graphs that are perfectly fine (2.5.0: fuse_pad_into_conv
on read-only weights). `rknn.config(disable_rules=[...])` is Rockchip's own way round. The result is simulated and compared
like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Diagnostics

if TYPE_CHECKING:
    from edgec.toolchain import Answer, Toolchain, Worker

WORKER = Path(__file__).with_name("worker.py")
MOST_RULES = 8

_CRASHED_RULE = re.compile(r"in rknn\.api\.rules\.\w+\._p_(\w+)")


@dataclass
class Build:
    """One request to the SDK. Runs once, in any thread; another thread may stop it.

    `worker`: one that has been started already; it works in `folder` and logs to `log`.
    """

    toolchain: Toolchain
    request: Mapping[str, Any]
    folder: Path
    log: Path
    timeout: float
    progress: Callable[[str], None]
    worker: Worker | None = None
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    _running: Worker | None = None
    _stopped: bool = False
    _lock: Lock = field(default_factory=Lock)

    def run(self) -> Answer:
        """Each rule that crashes is disabled and said as a warning (EC0464). Other failures are raised: WorkerError."""
        from edgec.toolchain import WorkerError

        crashed: list[str] = []
        while True:
            config = dict(self.request["config"])
            rules = [*config.get("disable_rules", ()), *crashed]
            if rules:
                config["disable_rules"] = rules
            log = self.log.with_stem(f"{self.log.stem}-{len(crashed)}") if crashed else self.log
            try:
                return self._once({**self.request, "config": config}, log, first=not crashed)
            except WorkerError as e:
                rule = crashed_rule(e.log) if e.reason == "failed" and not self._stopped else None
                if rule is None or rule in rules or len(crashed) >= MOST_RULES:
                    raise
                crashed.append(rule)
                message = (
                    f"the SDK's own rule {rule!r} crashed on this graph; it was switched off and the build repeated"
                )
                hint = "the artifact was simulated and compared as usual; the log of the crash is kept"
                self.diagnostics.warn("EC0464", message, hint=hint)

    def _once(self, request: Mapping[str, Any], log: Path, *, first: bool) -> Answer:
        started = self.worker if first and self.worker is not None else None
        with self._lock:
            if started is None:
                started = self.toolchain.start(WORKER, workdir=self.folder, log=log)
            self._running = started
            if self._stopped:
                started.close()
        with started:
            return started.run(request, timeout=self.timeout, progress=self.progress)

    def stop(self) -> None:
        """End what runs; `run` then raises WorkerError in its thread."""
        with self._lock:
            self._stopped = True
            if self._running is not None:
                self._running.close()


def crashed_rule(log: Path | None) -> str | None:
    """The rule whose function is deepest in the last traceback of the log."""
    if log is None or not log.is_file():
        return None
    found = _CRASHED_RULE.findall(log.read_text(encoding="utf-8", errors="replace"))
    return found[-1] if found else None
