"""A worker may do anything; the caller gets an answer or one clear error, and nothing stays running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from edgec.toolchain import Answer, Worker, WorkerError, run_worker

PYTHON = Path(sys.executable)


def run(tmp_path: Path, body: str, *, protocol: int = 1, head: str = "", **options: Any) -> Answer:
    script = tmp_path / "script.py"
    text = f"PROTOCOL = {protocol}\n{textwrap.dedent(head)}\ndef run(job):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
    script.write_text(text)
    request = options.pop("request", {"n": 3})
    return run_worker(
        PYTHON, script, request, workdir=tmp_path / "work", timeout=options.pop("timeout", 60.0), **options
    )


def failure(tmp_path: Path, body: str, **options: Any) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        run(tmp_path, body, **options)
    assert caught.value.log is not None
    assert caught.value.log.is_file()
    return caught.value


def gone(pid: int) -> bool:
    """True once the process has ended, waiting a little for the system to notice."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_answer(tmp_path: Path) -> None:
    heard: list[str] = []
    body = """
    job.step("first")
    data = (job.folder / "in" / "a.bin").read_bytes()
    job.step("second")
    (job.folder / "out.bin").write_bytes(data * job.request["n"])
    print("said")
    return {"file": "out.bin", "said": "said" in job.log_text()}
    """
    answer = run(tmp_path, body, files={"in/a.bin": b"xy"}, progress=heard.append)
    assert answer.values == {"file": "out.bin", "said": True}
    assert answer.path("out.bin").read_bytes() == b"xyxyxy"
    assert heard == ["first", "second"]
    assert [s.name for s in answer.steps] == heard
    assert answer.peak_memory >= 0
    assert not list((tmp_path / "work").glob("scratch-*"))


def test_scrubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("SECRET", "1")
    body = """
    import os, site, sys
    inside = [p for p in sys.path if p.endswith("compiler/toolchain")]
    return {"env": dict(os.environ), "cwd": os.getcwd(), "user": site.ENABLE_USER_SITE, "inside": inside,
            "hash": hash("edgec")}
    """
    first, second = (run(tmp_path, body).values for _ in range(2))
    assert not {"PYTHONPATH", "SECRET"} & set(first["env"])
    assert first["cwd"] == first["env"]["TMPDIR"] == first["env"]["HOME"] != os.getcwd()
    assert first["user"] is False
    assert first["inside"] == []
    assert first["hash"] == second["hash"]


@pytest.mark.skipif(sys.platform != "linux", reason="address randomisation is turned off on Linux only")
def test_addresses_repeat(tmp_path: Path) -> None:
    body = """
    import ctypes
    return {"at": ctypes.addressof(ctypes.c_int.in_dll(ctypes.CDLL(None), "stdout"))}
    """
    answers = [run(tmp_path, body) for _ in range(3)]
    if not answers[0].fixed_addresses:
        pytest.skip("this sandbox does not allow personality(ADDR_NO_RANDOMIZE)")
    assert len({a.values["at"] for a in answers}) == 1


def test_segfault(tmp_path: Path) -> None:
    e = failure(tmp_path, 'import ctypes\njob.step("build")\nprint("before")\nctypes.string_at(0)')
    assert (e.reason, e.step) == ("crash", "build")
    assert "SIGSEGV in the step 'build'" in str(e)
    assert e.signal == "SIGSEGV"
    assert any("Segmentation fault" in line for line in e.tail)


def test_killed(tmp_path: Path) -> None:
    e = failure(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert e.reason == "crash"
    assert "SIGKILL" in str(e)
    assert "memory" in str(e)


def test_hang_that_ignores_sigterm(tmp_path: Path) -> None:
    body = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("pid", os.getpid())
    job.step("loop")
    while True:
        time.sleep(1)
    """
    e = failure(tmp_path, body, timeout=2.0)
    assert (e.reason, e.step) == ("timeout", "loop")
    assert gone(int(e.tail[0].split()[1]))


def test_child_that_hangs(tmp_path: Path) -> None:
    body = """
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=False)
    return {"child": child.pid}
    """
    assert gone(run(tmp_path, body).values["child"])


def test_exit_status(tmp_path: Path) -> None:
    e = failure(tmp_path, 'import sys\nprint("why")\nsys.exit(3)')
    assert e.reason == "exit"
    assert "status 3" in str(e)
    assert "why" in e.tail


def test_no_answer(tmp_path: Path) -> None:
    assert failure(tmp_path, "import os\nos._exit(0)").reason == "exit"


@pytest.mark.parametrize("text", ["{", "[1]", '{"protocol": 1}', '{"protocol": 1, "answer": 3}', "\\xff\\xfe\\x00"])
def test_broken_answer(tmp_path: Path, text: str) -> None:
    body = f'import os\n(job.folder / "answer.json").write_bytes({text!r}.encode("latin-1"))\nos._exit(0)'
    assert failure(tmp_path, body).reason == "garbage"


def test_answer_outside_the_folder(tmp_path: Path) -> None:
    answer = run(tmp_path, 'return {"file": "../../etc/passwd"}')
    with pytest.raises(WorkerError, match="EC0624"):
        answer.path(answer.values["file"])


def test_binary_output(tmp_path: Path) -> None:
    e = failure(
        tmp_path,
        'import os\nos.write(1, bytes(range(256)) * 50 + b"\\n\\x1b[31mred\\x1b[0m\\n")\nraise ValueError("a\\nthe reason")',
    )
    assert e.reason == "failed"
    assert "the reason" in str(e)
    assert all(c.isprintable() for line in e.tail for c in line)


def test_huge_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.toolchain.worker._LOG_LIMIT", 5_000_000)
    assert failure(tmp_path, 'while True:\n    print("x" * 10000)').reason == "log-size"
    monkeypatch.undo()
    answer = run(tmp_path, 'print("y" * 3_000_000)\nreturn {}')
    assert answer.log.stat().st_size > 3_000_000


def test_memory(tmp_path: Path) -> None:
    body = """
    import time
    job.step("greedy")
    held = []
    while True:
        held.append(bytearray(8_000_000))
        time.sleep(0.02)
    """
    e = failure(tmp_path, body, memory=150_000_000)
    assert (e.reason, e.step) == ("memory", "greedy")


def test_memory_error_is_memory(tmp_path: Path) -> None:
    assert failure(tmp_path, "raise MemoryError").reason == "memory"


def test_protocol(tmp_path: Path) -> None:
    e = failure(tmp_path, "return {}", protocol=99)
    assert e.reason == "protocol"
    assert "99" in str(e)


def test_not_json(tmp_path: Path) -> None:
    assert failure(tmp_path, "return {1: object()}").reason == "failed"


def test_teardown_of_the_sdk_is_skipped(tmp_path: Path) -> None:
    """SDKs crash while Python shuts down, with the work done: that is not reached."""
    head = "import atexit, ctypes\natexit.register(ctypes.string_at, 0)"
    answer = run(tmp_path, 'return {"ok": True}', head=head)
    assert answer.values["ok"]
    assert answer.diagnostics == ()


def test_death_after_the_answer_is_told(tmp_path: Path) -> None:
    """Between answer and exit little is left that can fail; if it does, the answer counts and a warning says so."""
    head = (
        "import os, pathlib, signal, threading, time\n"
        "def die(folder):\n"
        "    while not (folder / 'answer.json').exists(): pass\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def slow(status): time.sleep(30)\n"
    )
    body = "os._exit = slow; threading.Thread(target=die, args=(job.folder,), daemon=True).start(); return {'ok': True}"
    answer = run(tmp_path, body, head=head)
    assert answer.values["ok"]
    assert [d.code for d in answer.diagnostics] == ["EC0629"]


def test_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot start") as caught:
        run_worker(tmp_path / "none", tmp_path / "s.py", {}, workdir=tmp_path / "w")
    assert caught.value.reason == "start"


def test_stale_answer_is_not_used(tmp_path: Path) -> None:
    run(tmp_path, 'return {"old": True}')
    assert failure(tmp_path, "import os\nos._exit(0)").reason == "exit"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_parent_ends(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C raises KeyboardInterrupt; either way the worker goes with its parent."""
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent died")
    (tmp_path / "w.py").write_text(
        "PROTOCOL = 1\ndef run(job):\n    import os, time\n"
        "    (job.folder / 'pid').write_text(str(os.getpid()))\n    job.step('long')\n    time.sleep(600)\n"
    )
    caller = (
        "import sys\nfrom pathlib import Path\nfrom edgec.toolchain import run_worker\ntry:\n"
        f"    run_worker(Path(sys.executable), Path({str(tmp_path / 'w.py')!r}), {{}}, workdir=Path({str(tmp_path / 'w')!r}),\n"
        "               progress=lambda s: print(s, flush=True))\nexcept KeyboardInterrupt:\n    sys.exit(42)\n"
    )
    with subprocess.Popen([sys.executable, "-c", caller], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip() == "long"
        pid = int((tmp_path / "w" / "pid").read_text())
        parent.send_signal(number)
        status = parent.wait(60)
    assert status == (42 if number == signal.SIGINT else -9)
    assert gone(pid)


@pytest.mark.parametrize(
    "suffix", ["", "#2", "-rs", "_ConvAdd", "_ConvAddRelu", "_2sdpa", "_2gavg_2conv1", "_ConvAddRelu#2"]
)
def test_rknn_node_names(suffix: str) -> None:
    from edgec.targets.rknn.layer_table import source_node

    assert source_node(f"Conv:/layer1/conv2/Conv{suffix}") == "/layer1/conv2/Conv"


# --- a worker started before its request ------------------------------------------------------------------------------


def waiting(tmp_path: Path, head: str, body: str = "return {}") -> Worker:
    script = tmp_path / "script.py"
    script.write_text(f"PROTOCOL = 1\n{textwrap.dedent(head)}\ndef run(job):\n    {body}\n")
    return Worker(PYTHON, script, workdir=tmp_path / "work")


def test_it_prepares_itself_before_the_request_is_there(tmp_path: Path) -> None:
    head = """
    from pathlib import Path
    ready = None
    def prepare(job):
        global ready
        ready = job.request
        (job.folder / "prepared").write_text("")
    """
    with waiting(
        tmp_path, head, "return {'before': ready, 'asked': job.request['n'], 'log': job.log_text()}"
    ) as worker:
        assert appears(tmp_path / "work" / "prepared")
        assert not (tmp_path / "work" / "request.json").exists()
        answer = worker.run({"n": 7})
    assert answer.values == {"before": {}, "asked": 7, "log": ""}


def test_what_fails_while_preparing_is_told_when_the_request_comes(tmp_path: Path) -> None:
    head = """
    def prepare(job):
        job.step("import")
        raise RuntimeError("no such SDK")
    """
    with waiting(tmp_path, head) as worker, pytest.raises(WorkerError, match="no such SDK") as caught:
        worker.run({})
    assert caught.value.reason == "failed"
    assert caught.value.step == "import"


def test_a_death_while_preparing_is_told_when_the_request_comes(tmp_path: Path) -> None:
    head = """
    import os, signal
    def prepare(job):
        os.kill(os.getpid(), signal.SIGSEGV)
    """
    with waiting(tmp_path, head) as worker:
        assert gone(worker.pid)
        with pytest.raises(WorkerError, match="SIGSEGV") as caught:
            worker.run({})
    assert caught.value.reason == "crash"


def test_one_that_is_not_needed_leaves_nothing(tmp_path: Path) -> None:
    with waiting(tmp_path, "def prepare(job): print('hello', flush=True)") as worker:
        assert appears(worker.log)
        pid = worker.pid
    assert gone(pid)
    assert not worker.log.exists()


def appears(path: Path) -> bool:
    for _ in range(500):
        if path.exists():
            return True
        time.sleep(0.02)
    return False
