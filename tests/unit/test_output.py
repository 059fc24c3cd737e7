"""The output folder: all or nothing, one writer at a time, nothing of the user's lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgec.diagnostics import EdgecError
from edgec.output import MANIFEST, OutputFolder, is_output
from edgec.report import ArtifactFacts, ModelFacts, Report
from edgec.target import Artifact


def report_of(artifact: Artifact) -> Report:
    model = ModelFacts("m.onnx", "0" * 64, "m", 24, (), (), 0, 0, 0)
    return Report("0.1", model, "acme", "fp16", (), {}, {}, artifact=ArtifactFacts.of(artifact))


def compile_into(folder: Path, data: bytes = b"one", name: str = "model.bin") -> Path:
    artifact = Artifact({name: data}, name)
    with OutputFolder(folder) as out:
        return out.commit(artifact, report_of(artifact))


def entries(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def code_of(e: pytest.ExceptionInfo[EdgecError]) -> str:
    return e.value.diagnostics[0].code


def test_a_result_appears_whole(tmp_path: Path) -> None:
    folder = compile_into(tmp_path / "build" / "m")
    assert entries(folder) == {"model.bin", "report.json", MANIFEST}
    assert is_output(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["outputs"]["model.bin"]["bytes"] == 3
    assert Report.read(folder / "report.json").target == "acme"
    assert entries(tmp_path / "build") == {"m"}, "no lock and no temporary folder is left"


def test_nothing_is_visible_before_commit(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "m") as out:
        out.put("model.bin", b"x")
        assert not (tmp_path / "m").exists()
    assert entries(tmp_path) == set()


def test_a_failure_leaves_the_older_result_alone(tmp_path: Path) -> None:
    folder = compile_into(tmp_path / "m", b"good")

    def failing() -> None:
        with OutputFolder(folder) as out:
            out.put("model.bin", b"bad")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert (folder / "model.bin").read_bytes() == b"good"
    assert entries(tmp_path) == {"m"}


def test_the_log_of_a_failed_run_is_kept_and_named(tmp_path: Path) -> None:
    def failing() -> None:
        with OutputFolder(tmp_path / "m") as out:
            (out.workdir / "logs").mkdir()
            (out.workdir / "logs" / "sdk.log").write_text("segmentation fault")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as e:
        failing()
    assert (tmp_path / "m.failed-log" / "sdk.log").read_text() == "segmentation fault"
    assert "m.failed-log" in e.value.__notes__[0]
    compile_into(tmp_path / "m")
    assert entries(tmp_path) == {"m"}, "the next success clears it away"


def test_logs_of_a_success_go_with_it(tmp_path: Path) -> None:
    artifact = Artifact({"a": b"1"}, "a")
    with OutputFolder(tmp_path / "m") as out:
        (out.workdir / "logs").mkdir()
        (out.workdir / "logs" / "sdk.log").write_text("built")
        (out.workdir / "rubbish").write_text("temporary")
        out.commit(artifact, report_of(artifact))
    assert (tmp_path / "m" / "logs" / "sdk.log").read_text() == "built"
    assert entries(tmp_path / "m") == {"a", "report.json", MANIFEST, "logs"}


def test_a_new_result_replaces_ours_and_keeps_the_users_files(tmp_path: Path) -> None:
    folder = compile_into(tmp_path / "m", name="old.bin")
    (folder / "notes.txt").write_text("mine")
    compile_into(folder, name="new.bin")
    assert entries(folder) == {"new.bin", "notes.txt", "report.json", MANIFEST}


def test_files_are_moved_not_copied(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "m") as out:
        made = out.workdir / "big.bin"
        made.write_bytes(b"x" * 10)
        artifact = Artifact({"sub/big.bin": made}, "sub/big.bin")
        out.commit(artifact, report_of(artifact))
    assert (tmp_path / "m" / "sub" / "big.bin").stat().st_size == 10


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.tex").write_text("years of work")
    with pytest.raises(EdgecError) as e:
        compile_into(tmp_path / "m")
    assert code_of(e) == "EC0906"
    assert entries(tmp_path / "m") == {"thesis.tex"}


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert "model.bin" in entries(compile_into(tmp_path / "m"))


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "m").symlink_to("disk")
    compile_into(tmp_path / "m")
    assert (tmp_path / "m").is_symlink()
    assert (tmp_path / "disk" / "model.bin").exists()


@pytest.mark.parametrize("path", ["file", "file/below", "/", "x" * 300])
def test_impossible_folders(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgecError) as e:
        compile_into(tmp_path / path)
    assert code_of(e) == "EC0902"


def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    root = os.geteuid() == 0  # root may write everywhere: be nobody for a moment
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(EdgecError) as e:
            compile_into(tmp_path / "m")
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o700)
    assert code_of(e) == "EC0903"


@pytest.mark.parametrize("name", ["../escape", "/etc/x", "manifest.json", "logs/x", "", "a/../../b"])
def test_a_target_may_not_write_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(EdgecError) as e:
        compile_into(tmp_path / "m", name=name)
    assert code_of(e) == "EC0104"
    assert entries(tmp_path) == set()


def test_two_at_once(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "m"), pytest.raises(EdgecError) as e:
        compile_into(tmp_path / "m")
    assert code_of(e) == "EC0905"
    assert str(os.getpid()) in str(e.value)
    compile_into(tmp_path / "m")


def _race(folder: Path, data: bytes, done: multiprocessing.Queue[str]) -> None:
    try:
        artifact = Artifact({f"{i}.bin": data for i in range(50)}, "0.bin")
        with OutputFolder(folder) as out:
            out.commit(artifact, report_of(artifact))
        done.put("done")
    except EdgecError as e:
        done.put(e.diagnostics[0].code)


def test_racing_processes_never_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    done: multiprocessing.Queue[str] = context.Queue()
    workers = [context.Process(target=_race, args=(tmp_path / "m", b"%d" % i, done)) for i in range(6)]
    for w in workers:
        w.start()
    outcomes = [done.get(timeout=60) for _ in workers]
    for w in workers:
        w.join()
    assert set(outcomes) <= {"done", "EC0905"}
    assert "done" in outcomes
    assert len({p.read_bytes() for p in (tmp_path / "m").glob("*.bin")}) == 1
    assert entries(tmp_path) == {"m"}


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """SIGKILL leaves rubbish nobody sees; the older result stays, and the next compilation clears the rubbish away."""
    folder = compile_into(tmp_path / "m", b"good")
    script = (
        "import sys, time\n"
        "from edgec.output import OutputFolder\n"
        "with OutputFolder(sys.argv[1]) as out:\n"
        "    out.put('model.bin', b'half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert (folder / "model.bin").read_bytes() == b"good"
    assert len(entries(tmp_path)) > 1
    compile_into(folder, b"better")
    assert (folder / "model.bin").read_bytes() == b"better"
    assert entries(tmp_path) == {"m"}


def test_killed_between_the_renames(tmp_path: Path) -> None:
    folder = compile_into(tmp_path / "m", b"good")
    folder.rename(tmp_path / ".m.edgec-old")
    with OutputFolder(folder):
        assert (folder / "model.bin").read_bytes() == b"good"


def test_full_disk_by_file_size_limit(tmp_path: Path) -> None:
    """A limit on file size stands for a full disk where no small disk can be mounted."""
    script = (
        "import resource, sys\n"
        "from edgec.output import OutputFolder\n"
        "from edgec.diagnostics import EdgecError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try:\n"
        "    with OutputFolder(sys.argv[1]) as out:\n"
        "        out.put('model.bin', b'x' * (1 << 20))\n"
        "except EdgecError as e:\n"
        "    print(e.diagnostics[0].code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "m")], capture_output=True, text=True)
    assert done.stdout == "EC0904\n", done.stderr
    assert entries(tmp_path) == set()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(tiny_disk: Path) -> None:
    compile_into(tiny_disk / "m", b"good")
    with pytest.raises(EdgecError) as e:
        compile_into(tiny_disk / "m", b"x" * (1 << 17))
    assert code_of(e) == "EC0904"
    assert (tiny_disk / "m" / "model.bin").read_bytes() == b"good"
    assert entries(tiny_disk) == {"m"}


def _inside_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that cannot be renamed, as a container's volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda p: Path(p) == folder)
    return folder


def test_a_mount_point_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _inside_folder(tmp_path, monkeypatch)
    inode = folder.stat().st_ino
    compile_into(folder, name="old.bin")
    (folder / "notes.txt").write_text("mine")
    compile_into(folder, name="new.bin")
    assert entries(folder) == {"new.bin", "notes.txt", "report.json", MANIFEST}
    assert entries(tmp_path) == {"volume"}
    assert folder.stat().st_ino == inode


def test_a_mount_point_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _inside_folder(tmp_path, monkeypatch)
    compile_into(folder, b"good")

    def failing() -> None:
        with OutputFolder(folder) as out:
            out.put("model.bin", b"bad")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert (folder / "model.bin").read_bytes() == b"good"
    assert entries(folder) == {"model.bin", "report.json", MANIFEST}


def test_a_real_mount_point(tiny_disk: Path) -> None:
    compile_into(tiny_disk)
    compile_into(tiny_disk, b"two")
    assert (tiny_disk / "model.bin").read_bytes() == b"two"
