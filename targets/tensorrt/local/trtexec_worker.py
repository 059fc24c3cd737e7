"""Worker script: build an engine with trtexec, where no Python on the machine has TensorRT.

Runs in any Python 3.8: standard library only.

Request (file names relative to the folder)
    trtexec       the program
    build         None (only its version), or
        model         the ONNX file
        plan, timing_cache, layers   the files to write; the timing cache is read where it is there
        arguments     more of trtexec's
Answer
    version       "10.3.0", or "" where it does not say
    reason        why there is no engine
    bytes, seconds, layers: as in engine_worker.py
    command       what was run
"""

from __future__ import annotations

import re
import subprocess
import time
from typing import Any

PROTOCOL = 1


def run(job: Any) -> dict[str, Any]:
    request = job.request
    job.step("trtexec --help")
    said = subprocess.run([request["trtexec"], "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    answer: dict[str, Any] = {"version": version(said.stdout.decode("utf-8", "replace"))}
    wanted = request["build"]
    if wanted is None:
        return answer
    paths = {key: job.folder / wanted[key] for key in ("model", "plan", "timing_cache", "layers")}
    command = [
        request["trtexec"],
        f"--onnx={paths['model']}",
        f"--saveEngine={paths['plan']}",
        f"--timingCacheFile={paths['timing_cache']}",
        "--profilingVerbosity=detailed",
        "--dumpLayerInfo",
        f"--exportLayerInfo={paths['layers']}",
        *wanted["arguments"],
    ]
    job.step("build")
    start = time.monotonic()
    status = subprocess.run(command, cwd=str(job.folder), check=False).returncode
    answer.update(seconds=round(time.monotonic() - start, 3), command=command)
    if status != 0 or not paths["plan"].is_file():
        answer["reason"] = f"trtexec ended with status {status}: {_last_error(job.log_text())}"
        return answer
    answer.update(bytes=paths["plan"].stat().st_size, layers=paths["layers"].is_file(), warnings=[])
    return answer


def version(text: str) -> str:
    """ "[TensorRT v8502]" is 8.5.2, "[TensorRT v100300]" 10.3.0: from 10 on minor and major have two digits."""
    found = re.search(r"\[TensorRT v(\d{4,7})\]", text)
    if found is None:
        return ""
    n = int(found[1])
    major, minor = (n // 1000, n // 100 % 10) if n < 10000 else (n // 10000, n // 100 % 100)
    return f"{major}.{minor}.{n % 100}"


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "[E]" in line]
    return lines[-1] if lines else "it gave no reason"
