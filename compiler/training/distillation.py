"""distill(): a student's weights trained until it computes what its teacher does, on inputs without labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgec.diagnostics import Diagnostics, Location, error
from edgec.folder_lock import FolderLock
from edgec.graph import Graph
from edgec.output import writing
from edgec.samples import Samples
from edgec.training.checkpoint import Checkpoint, run_key
from edgec.training.options import DistillOptions
from edgec.training.run import Distilled, Run


def distill(
    student: Graph,
    teacher: Graph,
    samples: Samples,
    options: DistillOptions | None = None,
    *,
    labels: Sequence[int] | None = None,
    kept: Mapping[str, Mapping[int, npt.NDArray[np.int64]]] | None = None,
    checkpoints: Path | None = None,
    checkpoint_steps: int = 100,
    diagnostics: Diagnostics | None = None,
    progress: Callable[[str], None] | None = None,
) -> Distilled:
    """Train the weights of `student` towards the outputs of `teacher` on `samples`; both graphs are left unchanged.

    The teacher runs in ONNX Runtime, the student in torch. What is returned is the student with the latest weights that
    none before them surely beat on held-out samples (`held_out`), never worse there than it came. A run is a function of its arguments: with `checkpoints`, a folder,
    one that was interrupted goes on where it was, every `checkpoint_steps` batches and at the end of every epoch, and ends
    with the same bytes.

    `labels`: the classes of the samples, for `options.hard`. `kept`: what pruning left of the teacher's values, name -> axis
    -> elements, so that those can be compared too (`edgec.pruning.PruningRecord.kept`). The folder keeps the state of a finished run: the same call
    returns at once.

    Raises:
        EdgecError: EC0321 an op of the student cannot be trained through; EC0322 a feature is not in both; EC0323 options;
            EC0324 too few samples; EC0327 nothing to train, or the outputs differ; EC0328 the loss is not finite;
            EC0905 another process trains in that folder.
    """
    options = options or DistillOptions()
    notes = diagnostics if diagnostics is not None else Diagnostics()
    _check(student, teacher, options, labels)
    with _deterministic(options):
        run = Run(student, teacher, samples, options, labels, kept or {}, notes, progress or (lambda text: None))
        if checkpoints is None:
            return run.train(None, checkpoint_steps)
        left = json.dumps(
            {n: {a: at.tolist() for a, at in axes.items()} for n, axes in (kept or {}).items()}, sort_keys=True
        )
        keys = (student.fingerprint(), teacher.fingerprint(), options.text(), samples.digest(), str(labels), left)
        checkpoint = Checkpoint(checkpoints, run_key(*keys, torch.__version__))
        folder = checkpoint.path.parent
        with writing(folder, "checkpoints"):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(folder / ".lock", folder)
            lock.acquire()
        try:
            return run.train(checkpoint, checkpoint_steps)
        except (KeyboardInterrupt, SystemExit) as e:
            if run.saved:
                again = f"and goes on there when it is run again ({folder})"
                e.add_note(f"training stood at batch {run.saved} of {run.steps}, {again}")
            raise
        finally:
            lock.release()


def _check(student: Graph, teacher: Graph, options: DistillOptions, labels: Sequence[int] | None) -> None:
    try:
        torch.zeros(1, device=options.device).cpu()
    except (RuntimeError, AssertionError) as e:  # AssertionError: built without CUDA
        message = f"training option device cannot be {options.device!r}: {str(e).partition(chr(10))[0]}"
        raise error("EC0323", message, hint="cpu, or cuda where PyTorch has it") from None
    where = Location(student.source)
    ours, theirs = ([v.name for v in g.outputs] for g in (student, teacher))
    if missing := [n for n in ours if n not in theirs]:
        message = f"the teacher has no output {', '.join(map(repr, missing))}"
        raise error("EC0327", message, where, f"its outputs: {', '.join(str(n) for n in theirs)}")
    if options.hard and labels is None:
        raise error(
            "EC0323", "training option hard needs labels, and there are none", hint="--labels FILE, or no --hard"
        )


@contextmanager
def _deterministic(options: DistillOptions) -> Iterator[None]:
    """torch's randomness, choice of algorithms and threads pinned, and put back afterwards."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads or threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.random.set_rng_state(state)
        torch.set_num_threads(threads)
