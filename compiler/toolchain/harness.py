"""Runs one worker script inside a vendor SDK's interpreter: read the request, call `run(job)`, write the answer.

This file is executed, not imported, by the SDK's Python, so it uses the standard library of Python 3.8 and nothing of
edgec. A worker script is a file that says

    PROTOCOL = 1

    def run(job):
        job.step("build")
        ...
        return {"artifact": "model.rknn"}

`job.request` is the caller's mapping, `job.folder` the folder that holds the request's files and takes the answer's,
`job.step(name)` says what happens next (shown as progress, and named when the process dies in it), `job.log_text()` is
what the SDK printed so far. What `run` returns must be JSON; what it raises becomes the caller's error.

A script may also have `prepare(job)`: called before the request is there, for what needs none (importing the SDK).

By hand:  <SDK's python> harness.py worker.py <folder with request.json>
edgec adds a third argument, the log. The request then follows later: a line on standard input says that it is there.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

PROTOCOL = 1
REQUEST, ANSWER, STEPS = "request.json", "answer.json", "steps.jsonl"

_ADDR_NO_RANDOMIZE = 0x0040000  # <sys/personality.h>
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_SIGKILL = 9


class Job:
    """What a worker script sees of its request."""

    def __init__(self, folder: Path, log: str | None) -> None:
        self.folder = folder
        self.request: dict[str, Any] = {}
        self._log = log
        self._start = time.monotonic()
        self.current = "starting"

    def step(self, name: str) -> None:
        """Announce what is done next. On disk at once: a crash cannot lose it."""
        self.current = name
        with (self.folder / STEPS).open("a", encoding="utf-8") as f:
            f.write(json.dumps({"step": name, "at": round(time.monotonic() - self._start, 3)}) + "\n")

    def log_text(self) -> str:
        """Everything this process and its C libraries printed so far; empty when run by hand."""
        _flush()
        if not self._log:
            return ""
        return Path(self._log).read_text(encoding="utf-8", errors="replace")


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _write_answer(folder: Path, answer: dict[str, Any]) -> None:
    text = json.dumps(answer)
    part = folder / (ANSWER + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(folder / ANSWER)


def _follow_parent() -> None:
    """Ask Linux to kill this process when edgec dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        parent = os.environ.get("EDGEC_PARENT_PID")
        if parent is not None and os.getppid() not in (int(parent), 0):  # 0: the parent is outside this pid namespace
            sys.exit("edgec: the process that asked for this work is gone")


def _fixed_addresses() -> bool:
    """True when address randomisation is off: some SDKs write addresses or their order into the artifact.

    Turning it off takes a new start of the interpreter; sandboxes may forbid it, then False.
    """
    if sys.platform != "linux":
        return False
    personality = ctypes.CDLL(None).personality
    personality.argtypes = [ctypes.c_ulong]
    now = personality(0xFFFFFFFF)
    if now != -1 and now & _ADDR_NO_RANDOMIZE:
        return True
    if now == -1 or "EDGEC_REEXEC" in os.environ or personality(now | _ADDR_NO_RANDOMIZE) == -1:
        return False
    os.environ["EDGEC_REEXEC"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.argv])
    raise AssertionError("execv returned")


def _load(script: str) -> Any:
    """The worker script as a module. Compiled each time: with a cache the second run would not be like the first."""
    module = types.ModuleType("edgec_worker")
    module.__file__ = script
    exec(compile(Path(script).read_text(encoding="utf-8"), script, "exec"), module.__dict__)
    return module


def _wait_for_request() -> None:
    """Until edgec says that the request is there; ends this process when edgec goes away without one."""
    if not sys.stdin.buffer.readline():
        os._exit(0)
    with open(os.devnull, "rb") as nothing:  # an SDK that reads standard input must not wait for edgec
        os.dup2(nothing.fileno(), 0)


def main(script: str, folder: Path, log: str | None) -> int:
    _follow_parent()
    fixed = _fixed_addresses()
    os.environ.pop("EDGEC_REEXEC", None)
    os.environ.pop("EDGEC_PARENT_PID", None)
    about = {"protocol": PROTOCOL, "fixed_addresses": fixed, "python": "{}.{}.{}".format(*sys.version_info[:3])}
    job = Job(folder, log)
    worker, answer = _prepare(script, job, about)
    if log is not None:
        _wait_for_request()
    envelope = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    if envelope["protocol"] != PROTOCOL:
        answer = {**about, "mismatch": {"harness": PROTOCOL, "request": envelope["protocol"]}}
    if answer is None:
        job.request = envelope["request"]
        try:
            answer = {**about, "answer": worker.run(job)}
            json.dumps(answer)
        except Exception as e:  # noqa: BLE001 - whatever the SDK raises is the answer, and the caller makes it an EdgecError
            answer = {**about, "error": _failure(e, job)}
    _flush()
    _write_answer(folder, answer)
    return 0


def _prepare(script: str, job: Job, about: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
    """The worker script, ready for its request; or the answer, where it cannot be."""
    try:
        worker = _load(script)
        spoken = getattr(worker, "PROTOCOL", None)
        if spoken != PROTOCOL:
            return worker, {**about, "mismatch": {"harness": PROTOCOL, "worker": spoken}}
        if hasattr(worker, "prepare"):
            worker.prepare(job)
    except Exception as e:  # noqa: BLE001 - as in `main`
        return None, {**about, "error": _failure(e, job)}
    return worker, None


def _failure(e: Exception, job: Job) -> dict[str, Any]:
    if not hasattr(e, "details"):  # a failure the script foresaw; its traceback would only hide the SDK's words
        traceback.print_exc()
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    failure = {"step": job.current, "type": type(e).__name__, "message": lines[-1] if lines else type(e).__name__}
    failure.update(getattr(e, "details", {}))
    return failure


if __name__ == "__main__":
    # The folder of this file comes first in sys.path of a script; its modules must not shadow the SDK's.
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != _here]
    _log = sys.argv[3] if len(sys.argv) > 3 else None
    _status = main(
        sys.argv[1], Path(sys.argv[2]).absolute(), _log
    )  # links stay: the caller chose a path of fixed length
    _flush()
    os._exit(_status)  # the answer is complete: SDKs take 0.2 s to tear themselves down, and some crash in it
