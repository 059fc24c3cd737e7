"""Worker script: many Programs to packages and back, in one process. The scripts it calls travel in the request.

Request: builder, decoder (file names of the worker scripts), programs [[program, weights] ...]
Answer: results, one each: {"error": text} or {"program": file, "weights": file}
"""

from __future__ import annotations

import json
import types
from typing import Any

PROTOCOL = 1


class _Part:
    """What a worker script sees of a request of its own."""

    def __init__(self, job: Any, request: dict[str, Any]) -> None:
        self.folder, self.request = job.folder, request

    def step(self, name: str) -> None:
        """Not announced: there are thousands."""


def run(job: Any) -> dict[str, Any]:
    workers = {name: _load(job.folder / job.request[name]) for name in ("builder", "decoder")}
    for worker in workers.values():
        worker.prepare(_Part(job, {}))
    results = []
    for i, (program, weights) in enumerate(job.request["programs"]):
        job.step(program)
        try:
            made = workers["builder"].run(_Part(job, {"program": program, "weights": weights}))
            read = workers["decoder"].run(_Part(job, {"package": made["package"]}))
        except Exception as e:  # noqa: BLE001 - whatever coremltools says is the result of this case
            results.append({"error": f"{type(e).__name__}: {e}"[:500]})
            continue
        found = {}
        for what in ("program", "weights"):
            kept = job.folder / f"{i}.decoded.{what}"
            (job.folder / read[what]).rename(kept)
            found[what] = kept.name
        results.append(found)
    return {"results": json.loads(json.dumps(results))}


def _load(path: Any) -> Any:
    module = types.ModuleType(path.stem)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module
