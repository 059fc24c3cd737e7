"""Run a worker script in a vendor SDK's interpreter, survive whatever it does, and say clearly what happened.

The exchange is a folder: `request.json` and files go in, `answer.json` and files come out, `steps.jsonl` says how far it
got. See `harness.py` for the other side. Works on Linux and macOS.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edgec.diagnostics import Diagnostic, EdgecError, Location, Severity
from edgec.toolchain import harness
from edgec.toolchain.processes import end_group, group_memory, wait_for_end

PROTOCOL = harness.PROTOCOL
Progress = Callable[[str], None]

_LOG_LIMIT = 256 * 2**20  # bytes; a verbose build of a large network prints a few MB
_LOOK = 0.05  # seconds between two looks at steps, memory and time
_EXIT_GRACE = 20.0  # seconds a worker may take to exit once its answer is complete
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing the worker did, and the seconds it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Answer:
    """What a worker gave back.

    `values` is what its `run` returned; file names in it are relative to `folder`: use `answer.path(name)`.
    `fixed_addresses` is False when address randomisation could not be turned off: artifacts may then differ from run
    to run. `peak_memory` is in bytes, sampled, over all processes of the worker.
    """

    values: Mapping[str, Any]
    folder: Path
    log: Path
    seconds: float
    steps: tuple[Step, ...]
    peak_memory: int
    fixed_addresses: bool
    diagnostics: tuple[Diagnostic, ...] = ()

    def path(self, name: str) -> Path:
        """A file of the answer, which must exist inside `folder`; raises EC0624."""
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise WorkerError("EC0624", f"the worker's answer names a file that is not there: {name}", self.log)
        return path

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class WorkerError(EdgecError):
    """A worker that gave no usable answer. `step` is what it was doing, `log` holds all it printed, `signal` killed it.

    `reason` is for programs: crash, timeout, memory, log-size, exit, garbage, protocol, failed, start. `details`: what the
    worker's own exception said besides its message.
    """

    REASONS: Mapping[str, str] = {
        "EC0620": "crash",
        "EC0621": "timeout",
        "EC0622": "memory",
        "EC0623": "exit",
        "EC0624": "garbage",
        "EC0625": "protocol",
        "EC0626": "failed",
        "EC0627": "log-size",
        "EC0628": "start",
    }

    def __init__(
        self,
        code: str,
        message: str,
        log: Path | None = None,
        *,
        step: str | None = None,
        hint: str | None = None,
        signal: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.details = dict(details or {})
        tail = log_tail(log) if log is not None and log.is_file() else []
        said = "\n    ".join(["last lines of the log:", *tail]) if tail else None
        hints = "\n  ".join(part for part in (hint, said) if part)
        where = Location(str(log)) if log is not None else Location()
        super().__init__(Diagnostic(code, Severity.ERROR, message, where, hints or None))
        self.reason = self.REASONS[code]
        self.step = step
        self.log = log
        self.signal = signal
        self.tail = tuple(tail)


def run_worker(
    python: Path,
    script: Path,
    request: Mapping[str, Any],
    *,
    workdir: Path,
    sdk: str = "worker",
    files: Mapping[str, Path | bytes] | None = None,
    timeout: float = 1800.0,
    memory: int | None = None,
    log: Path | None = None,
    progress: Progress | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Start a `Worker` and run `request` at once."""
    with Worker(python, script, workdir=workdir, sdk=sdk, log=log, memory=memory, env=env) as worker:
        return worker.run(request, files=files, timeout=timeout, progress=progress)


class _Alias:
    """The folder and the log under paths that are always equally long, and a scratch folder beside them.

    Some SDKs write uninitialised memory into their artifacts, and what lies there depends on the length of every path
    the process has handled: with the caller's own paths, the same model would give other bytes in another folder
    (measured: rknn-toolkit2 2.5.0).
    """

    def __init__(self, workdir: Path, log: Path) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="edgec-"))
        self.folder, self.log, self.scratch = (self._path / name for name in ("folder", "log", "scratch"))
        self.folder.symlink_to(workdir)
        self.log.symlink_to(log)
        self.scratch.mkdir()

    def remove(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)  # of the folder and the log only the links


def scrubbed_environment(python: Path, scratch: Path) -> dict[str, str]:
    """All a worker sees of the caller's environment: nothing that could change what the SDK does."""
    return {
        "PATH": os.pathsep.join([str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",  # the first run must be like the next, see _Alias
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",  # a crash loses nothing of the log
        "PYTHONFAULTHANDLER": "1",  # and says where it happened
        "EDGEC_PARENT_PID": f"{os.getpid():010}",  # always equally long, see _Alias
    }


class Worker:
    """`script` (see `harness.py`) in interpreter `python`, started at once; it prepares itself and waits for its one request.

    `workdir` is made if missing and stays: it holds the request, the answer and, unless `log` says elsewhere, the log
    (`worker.log`). The worker gets a scratch current folder, HOME and TMPDIR of its own, removed afterwards, and a bare
    environment plus `env`. `memory` is in resident bytes of all its processes together (None: no limit). Leaving the
    `with` block ends whatever still runs.

    Raises `WorkerError` EC0628 where it cannot be started.
    """

    def __init__(
        self,
        python: Path,
        script: Path,
        *,
        workdir: Path,
        sdk: str = "worker",
        log: Path | None = None,
        memory: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        if os.name != "posix":
            raise WorkerError("EC0628", f"{sdk}: vendor toolchains run on Linux and macOS only")
        self.sdk, self.script = sdk, script.resolve()
        self.workdir = workdir.resolve()
        self.log = (log or workdir / "worker.log").resolve()
        self.memory = memory
        self._peak = 0
        self._asked = False
        self._steps_seen = 0
        self._stopped: WorkerError | None = None  # why we ended it, when we did
        self._progress: Progress | None = None
        self._alias = _Alias(self.workdir, self.log)
        try:
            self._process = self._start(Path(os.path.abspath(python)), env or {})
        except BaseException:
            self._alias.remove()
            raise

    def _start(self, python: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        alias = self._alias
        command = [
            str(python),
            str(Path(harness.__file__).resolve()),
            str(self.script),
            str(alias.folder),
            str(alias.log),
        ]
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            for stale in (harness.REQUEST, harness.ANSWER, harness.STEPS):
                (self.workdir / stale).unlink(missing_ok=True)
            self.log.parent.mkdir(parents=True, exist_ok=True)
            out = self.log.open("wb")
        except OSError as e:
            raise self._unwritable(e) from e
        with out:
            try:
                return subprocess.Popen(
                    command,
                    cwd=alias.scratch,
                    env={**scrubbed_environment(python, alias.scratch), **env},
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as e:
                raise WorkerError(
                    "EC0628",
                    f"{self.sdk}: cannot start {python}: {e.strerror or e}",
                    hint="`edgec toolchain doctor` checks the environment",
                ) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End it, whatever it does; a worker that got no request leaves no log."""
        try:
            end_group(self._process)
            if self._process.stdin is not None:
                self._process.stdin.close()
            if not self._asked:  # what an SDK prints on import explains nothing
                self.log.unlink(missing_ok=True)
        finally:
            self._alias.remove()

    def run(
        self,
        request: Mapping[str, Any],
        *,
        files: Mapping[str, Path | bytes] | None = None,
        timeout: float = 1800.0,
        progress: Progress | None = None,
    ) -> Answer:
        """Hand over the request and wait for the answer; once only.

        `files` are copied into the folder first, by relative name. `timeout` is in seconds. `progress` is called
        with the name of each step.

        Raises `WorkerError` EC0620 to EC0628. On KeyboardInterrupt, or any other exception here, nothing of the worker
        is left running.
        """
        started = time.monotonic()
        self._asked = True
        self._progress = progress
        try:
            self._hand_over(request, files or {})
            self._watch(started, timeout)
        except OSError as e:
            raise self._unwritable(e) from e
        finally:
            end_group(self._process)
        self._report_steps()
        return self._read(self._process.returncode, time.monotonic() - started)

    def _hand_over(self, request: Mapping[str, Any], files: Mapping[str, Path | bytes]) -> None:
        for name, content in files.items():
            place = (self.workdir / name).resolve()
            if not place.is_relative_to(self.workdir):
                raise ValueError(f"{name!r} is not inside the worker's folder")
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                place.write_bytes(content)
            else:
                shutil.copyfile(content, place)
        envelope = {"protocol": PROTOCOL, "request": dict(request)}
        (self.workdir / harness.REQUEST).write_text(json.dumps(envelope, indent=1), encoding="utf-8")
        stdin = self._process.stdin
        assert stdin is not None  # a pipe, see _start
        try:
            stdin.write(b"go\n")
            stdin.close()
        except BrokenPipeError:
            pass  # it died while it prepared itself: `_read` says how

    def _unwritable(self, e: OSError) -> WorkerError:
        return WorkerError(
            "EC0628", f"{self.sdk}: cannot write the request: {e}", hint="check --workdir and free space"
        )

    def _watch(self, started: float, timeout: float) -> None:
        """Until it ends or must be ended."""
        process = self._process
        answered: float | None = None
        while process.poll() is None:
            now = time.monotonic()
            self._peak = max(self._peak, group_memory(process.pid))
            self._report_steps()
            if answered is None and (self.workdir / harness.ANSWER).exists():
                answered = now
            if answered is not None and now - answered > _EXIT_GRACE:
                return  # the work is done, only the exit hangs
            late = timeout if now >= started + timeout and answered is None else None
            self._stopped = self._overrun(late)
            if self._stopped is not None:
                return
            wait_for_end(process, _LOOK)

    def _overrun(self, late: float | None) -> WorkerError | None:
        """Why it must be ended, if it must. `late`: the time limit in seconds, where it is over."""
        step = self._steps()[-1].name if self._steps() else "starting"
        doing = f"{self.sdk}: the step {step!r}"
        if self.memory is not None and self._peak > self.memory:
            what = f"{doing} took more memory than allowed: {_size(self._peak)} of {_size(self.memory)}"
            return WorkerError(
                "EC0622", what, self.log, step=step, hint="raise the memory limit or take a smaller batch"
            )
        if self.log.stat().st_size > _LOG_LIMIT:
            what = f"{doing} printed more than {_size(_LOG_LIMIT)} and was ended"
            return WorkerError("EC0627", what, self.log, step=step, hint="the SDK is probably in an endless loop")
        if late is not None:
            what = f"{doing} was not done after the time limit of {late:g} s"
            hint = "raise the time limit; SDKs are also known to loop forever on some graphs: `edgec explain EC0621`"
            return WorkerError("EC0621", what, self.log, step=step, hint=hint)
        return None

    def _steps(self) -> list[Step]:
        """Steps announced so far; `seconds` is the time to the next one (0 for the last)."""
        try:
            lines = (self.workdir / harness.STEPS).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        marks: list[tuple[str, float]] = []
        for line in lines:
            try:
                mark = json.loads(line)
                marks.append((str(mark["step"]), float(mark["at"])))
            except (ValueError, KeyError, TypeError):
                break  # half a line: it is being written, or the process died writing it
        ends = [at for _, at in marks[1:]] + ([marks[-1][1]] if marks else [])
        return [Step(name, round(end - at, 3)) for (name, at), end in zip(marks, ends, strict=True)]

    def _report_steps(self) -> None:
        steps = self._steps()
        if self._progress is not None:
            for step in steps[self._steps_seen :]:
                self._progress(step.name)
        self._steps_seen = len(steps)

    def _read(self, status: int, seconds: float) -> Answer:
        if self._stopped is not None:
            raise self._stopped
        steps = self._steps()
        step = steps[-1].name if steps else "starting"
        path = self.workdir / harness.ANSWER
        if not path.exists():
            raise self._no_answer(status, step)
        answer = self._parse(path, step)
        if "error" in answer:
            failure = answer["error"]
            step = str(failure.get("step", step))
            what = f"{self.sdk} failed in the step {step!r}: {failure.get('message', 'it gave no reason')}"
            code = "EC0622" if failure.get("type") == "MemoryError" else "EC0626"
            raise WorkerError(code, what, self.log, step=step, details=failure)
        notes: list[Diagnostic] = []
        if status != 0:
            how = f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status}"
            what = f"{self.sdk} {how} after its answer was complete; the answer is used"
            notes.append(Diagnostic("EC0629", Severity.WARNING, what, Location(str(self.log))))
        return Answer(
            answer["answer"], self.workdir, self.log, round(seconds, 3), tuple(steps), self._peak,
            answer.get("fixed_addresses") is True, tuple(notes),
        )  # fmt: skip

    def _no_answer(self, status: int, step: str) -> WorkerError:
        if status < 0:
            name = _signal_name(-status)
            what = f"{self.sdk} was killed by {name} in the step {step!r}"
            hint = (
                "the system kills with SIGKILL when memory runs out: try with more memory or fewer samples"
                if -status == signal.SIGKILL
                else "a fault inside the SDK: `edgec explain EC0620` says how to find the operator that sets it off"
            )
            return WorkerError("EC0620", what, self.log, step=step, hint=hint, signal=name)
        what = f"{self.sdk} exited with status {status} and no answer in the step {step!r}"
        return WorkerError("EC0623", what, self.log, step=step)

    def _parse(self, path: Path, step: str) -> dict[str, Any]:
        try:
            answer = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as e:
            what = f"{self.sdk}: the worker's answer is not JSON: {e}"
            raise WorkerError("EC0624", what, self.log, step=step) from e
        if not isinstance(answer, dict):
            raise WorkerError("EC0624", f"{self.sdk}: the worker's answer is not an object", self.log, step=step)
        if answer.get("protocol") != PROTOCOL or "mismatch" in answer:
            heard = answer.get("mismatch", {}).get("worker", answer.get("protocol"))
            what = f"{self.sdk}: {self.script} speaks worker protocol {heard}, edgec {PROTOCOL}"
            hint = "the worker script belongs to another version of edgec or of the plugin"
            raise WorkerError("EC0625", what, self.log, step=step, hint=hint)
        if not isinstance(answer.get("error", answer.get("answer")), dict):
            raise WorkerError("EC0624", f"{self.sdk}: the worker's `run` returned no mapping", self.log, step=step)
        return answer


def log_tail(path: Path, lines: int = 12, width: int = 200) -> list[str]:
    """The last non-empty lines of a log as plain text: no colours, no control characters, no progress-bar history."""
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - 64 * 1024))
        text = f.read().decode("utf-8", errors="replace")
    out = []
    for raw in _ANSI.sub("", text).split("\n"):
        last = raw.rstrip("\r ").rsplit("\r", 1)[-1]
        plain = "".join(c if c.isprintable() else "." for c in last.expandtabs(4)).strip()
        if plain:
            out.append(plain[:width] + ("..." if len(plain) > width else ""))
    return out[-lines:]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _size(n: int) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"
