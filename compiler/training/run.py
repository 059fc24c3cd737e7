"""One training run: batches, losses, epochs judged on held-out samples, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgec.diagnostics import Diagnostics, Location, error
from edgec.graph import Graph
from edgec.samples import Samples
from edgec.training.batches import (
    Arrays,
    augmented,
    batch_numbers,
    batches_per_epoch,
    chunks,
    image_axes,
    joined,
    read_samples,
    split,
)
from edgec.training.checkpoint import Checkpoint, State
from edgec.training.features import automatic_features, check_features
from edgec.training.held_out import Losses, held_out_views, ruined, surely_above
from edgec.training.learned_scales import follow, learnable_scales
from edgec.training.losses import OutputLoss, loss_kind, total_loss
from edgec.training.ops import Tensor
from edgec.training.optimizer import Optimizer
from edgec.training.options import DistillOptions
from edgec.training.teacher import Teacher
from edgec.training.torch_graph import TorchGraph
from edgec.training.written_back import write_back

_SAVE_SECONDS = 60.0
"""A checkpoint is written at least so often, where batches take long."""

_CAUTION = 0.3
"""What is left of the learning rate after an epoch that did harm."""

_LEAST_SCALE = 0.1
"""Of a scale that is learnt, beside what it was."""

_TELL_SECONDS = 5.0

_TEACHER_BYTES = 1 << 30
"""What the teacher's values may take in memory; above that they are computed batch by batch."""


@dataclass(frozen=True)
class Distilled:
    """What training made. Losses are means over held-out samples, in the units of the loss."""

    graph: Graph
    loss_before: float
    loss_after: float
    best_step: int
    """The batch whose weights were kept; 0: training improved nothing, and the student is as it was."""
    steps: int
    seconds: float
    history: Sequence[Sequence[float]]
    """[step, mean training loss, loss on held-out samples], one row an epoch; the first is before training."""
    resumed_at: int = 0


class Run:
    """One training run: everything that does not change while it lasts."""

    def __init__(
        self, student: Graph, teacher: Graph, samples: Samples, options: DistillOptions,
        labels: Sequence[int] | None, kept: Mapping[str, Mapping[int, npt.NDArray[np.int64]]], notes: Diagnostics,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.student, self.options, self.notes, self.tell = student, options, notes, tell
        self.net = TorchGraph(student, train_scales="weights" if options.train_scales else None, device=options.device)
        names = learnable_scales(self.net.graph) if options.train_scales else []
        self.scales = {n: self.net.parameters[n].detach().clone() for n in names}
        if not self.net.parameters:
            raise error("EC0327", "the student has no weights to train", Location(student.source))
        tell("read samples")
        self.samples = read_samples(samples, options.limit)
        self.labels = None if labels is None else torch.as_tensor(list(labels), dtype=torch.int64)
        if self.labels is not None and len(self.labels) < len(self.samples):
            what = f"{len(self.labels)} labels for {len(self.samples)} samples"
            raise error("EC0323", f"there are {what}", Location(samples.describe))
        self.trained, self.held = split(len(self.samples), options.holdout, options.seed)
        self.per_epoch = batches_per_epoch(len(self.trained), options.batch)
        self.steps = options.steps or options.epochs * self.per_epoch
        self.images = image_axes(self.samples[0]) if options.augment else {}
        if options.augment and not self.images:
            raise error("EC0323", "training option augment is for images, and no input is one")
        features = options.features
        chosen = automatic_features(student, teacher, kept) if features == "auto" else features
        check_features(student, teacher, chosen)
        self.features = [f for f in chosen if f not in self.net.outputs]
        self.wanted = [*self.net.outputs, *self.features]
        self.teacher = Teacher(teacher, self.wanted, kept)
        self.parts: list[OutputLoss] = []
        self.known = self._teach()
        self.together = self._batches_agree()
        self.views = held_out_views([self.samples[i] for i in self.held], options, self.images)
        self.saved = 0
        """The batch up to which a checkpoint holds what was trained."""
        self.zeros = {
            n: p.detach() != 0 for n, p in self.net.parameters.items() if options.keep_zeros and p.dim() >= 2 and (p == 0).any()
        }  # fmt: skip

    # --- the teacher ---------------------------------------------------------------------------------------------

    def _teach(self) -> list[Arrays] | None:
        """The teacher's values for all samples, where they fit; what is compared, with the teacher's power."""
        self.tell("run the teacher")
        known: list[Arrays] | None = []
        power = dict.fromkeys(self.wanted, 0.0)
        total = 0
        for sample in self.samples:
            values = self.teacher.values(sample)
            for name in self.wanted:
                power[name] += float(np.mean(np.square(values[name], dtype=np.float64))) / len(self.samples)
            total += sum(a.nbytes for a in values.values())
            if known is not None and (self.options.augment or total > _TEACHER_BYTES):
                known = None
            if known is not None:
                known.append(values)
        for name in self.wanted:
            share = max(power[name], 1e-12)
            if name not in self.net.outputs:
                each = self.options.feature_weight / len(self.features)
                self.parts.append(OutputLoss(name, "numbers", 1, share, each))
            elif values[name].dtype.kind == "f":
                kind, axis = loss_kind(self.net.graph, name, self.options.loss)
                self.parts.append(OutputLoss(name, kind, axis, share))
                if kind == "logits" and self.features:  # softmax does not see what is added to all of them
                    each = self.options.feature_weight / len(self.features)
                    self.parts.append(OutputLoss(name, "numbers", 1, share, each))
        self.wanted = list(dict.fromkeys(p.name for p in self.parts))
        if not self.parts:
            raise error(
                "EC0327", "the student has no output in floating point to learn from", Location(self.student.source)
            )
        if self.options.hard and all(p.kind == "numbers" for p in self.parts):
            raise error(
                "EC0323",
                "training option hard is for classifiers, and no output has classes",
                hint="loss=kl makes it one",
            )
        self._check_shapes()
        return known

    def _check_shapes(self) -> None:
        with torch.no_grad():
            ours = self.net.run(self.samples[0], self.wanted)
        theirs = self.teacher.values(self.samples[0])
        for name in self.wanted:
            if tuple(ours[name].shape) != theirs[name].shape:
                code = "EC0327" if name in self.net.outputs else "EC0322"
                what = f"{name!r} is {list(ours[name].shape)} in the student, {list(theirs[name].shape)} in the teacher"
                raise error(code, what, Location(self.student.source))
        if self.labels is not None and self.options.hard:
            self._check_labels(self.labels, ours)

    def _check_labels(self, labels: Tensor, ours: Mapping[str, Tensor]) -> None:
        """Labels are of the first output that has classes: one a sample, and of no class that it does not have."""
        part = next(p for p in self.parts if p.kind != "numbers")
        shape = tuple(ours[part.name].shape)
        classes = shape[part.axis]
        if math.prod(shape) != classes:
            what = f"training option hard needs one class a sample, and {part.name!r} is {list(shape)}"
            raise error("EC0323", what, Location(self.student.source), "train without labels")
        if int(labels.max()) >= classes:
            what = f"there is a label {int(labels.max())}, and {part.name!r} has {classes} classes"
            raise error("EC0323", what, Location(self.student.source), f"classes are counted from 0 to {classes - 1}")

    # --- batches -------------------------------------------------------------------------------------------------

    def _batches_agree(self) -> bool:
        """Whether the student may be given several samples at once: all but the first axis alike, and the same results."""
        shapes = {tuple((n, a.shape[1:], a.ndim) for n, a in sorted(s.items())) for s in self.samples}
        if len(shapes) != 1:
            return False
        pair = self.samples[:2]
        with torch.no_grad():
            alone = [self.net.run(s, self.wanted) for s in pair]
            try:
                both = self.net.run(joined(pair), self.wanted)
            except RuntimeError as e:  # a Reshape to a fixed batch, say
                self.notes.note("EC0329", f"batches are run sample by sample: {' '.join(str(e).split())[:200]}")
                return False
        for name in self.wanted:
            apart = torch.cat([a[name] for a in alone]) if alone[0][name].dim() else None
            if apart is None or apart.shape != both[name].shape or not torch.allclose(apart, both[name], 1e-3, 1e-4):
                self.notes.note("EC0329", f"batches are run sample by sample: the model mixes samples in {name!r}")
                return False
        return True

    def _batch(self, step: int) -> Iterator[tuple[float, Arrays, dict[str, Tensor], Any]]:
        """What batch `step` trains on."""
        numbers = batch_numbers(self.trained, self.options.batch, self.options.seed, step)
        batch = [self.samples[i] for i in numbers]
        if self.options.augment:
            batch = augmented(batch, self.options, step, self.images)
        return self._values(batch, numbers, known=not self.options.augment)

    def _values(
        self, batch: Sequence[Arrays], numbers: Sequence[int], *, known: bool
    ) -> Iterator[tuple[float, Arrays, dict[str, Tensor], Any]]:
        """(share of the batch, inputs, teacher's values, labels): one for all samples, or one a sample. `numbers`: the
        samples that `batch` shows, as they are if the teacher's values are `known`."""
        if known and self.known is not None:
            taught = [self.known[i] for i in numbers]
        else:
            taught = [self.teacher.values(s) for s in batch]
        labels = None if self.labels is None else self.labels[list(numbers)].to(self.options.device)
        groups = [list(range(len(batch)))] if self.together else [[i] for i in range(len(batch))]
        for group in groups:
            teacher = {n: self._tensor(np.concatenate([taught[i][n] for i in group])) if taught[0][n].ndim else
                       self._tensor(taught[group[0]][n]) for n in self.wanted}  # fmt: skip
            some = None if labels is None else labels[group]
            yield len(group) / len(batch), joined([batch[i] for i in group]), teacher, some

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.options.device)

    def _loss(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], labels: Any) -> Tensor:
        return total_loss(self.parts, student, teacher, self.options.temperature, self.options.hard, labels)

    # --- training ------------------------------------------------------------------------------------------------

    def train(self, checkpoint: Checkpoint | None, every: int) -> Distilled:
        start = time.perf_counter()
        optimizer = Optimizer(self.net.parameters, self.options, self.steps)
        state = checkpoint.load(self.notes) if checkpoint is not None else None
        resumed = state.step if state is not None else 0
        if state is None:
            before = self._held_losses()
            loss = float(before.mean())
            state = State(best=self._arrays(), least=before.tolist(), history=[[0, loss, loss]])
        else:
            self._restore(state, optimizer)
            self.tell(f"resume after batch {state.step} of {self.steps}")
        self.saved = state.step
        began, told, saved = time.perf_counter(), start, start
        while state.step < self.steps:
            state.running.append(self._train_step(state.step, optimizer, state.caution))
            state.step += 1
            left = (time.perf_counter() - began) / (state.step - resumed) * (self.steps - state.step)
            if ended := state.step % self.per_epoch == 0 or state.step == self.steps:
                self._end_epoch(state, optimizer)
            if ended or time.perf_counter() > told + _TELL_SECONDS:
                self._tell_progress(state, left)
                told = time.perf_counter()
            if ended or state.step % every == 0 or time.perf_counter() > saved + _SAVE_SECONDS:
                self._keep(checkpoint, state, optimizer)
                saved = time.perf_counter()
        graph = self.student.clone()
        if state.best_step:
            with torch.no_grad():
                chosen = {n: torch.from_numpy(a).to(self.options.device) for n, a in state.best.items()}
            write_back(graph, self.net.arrays(chosen))
            follow(graph, {n: s.cpu().numpy() for n, s in self.scales.items()})
        seconds = time.perf_counter() - start
        losses = {int(row[0]): row[2] for row in state.history}
        return Distilled(
            graph, losses[0], losses[state.best_step], state.best_step, state.step, seconds, state.history, resumed
        )

    def _train_step(self, step: int, optimizer: Optimizer, caution: float) -> float:
        optimizer.zero()
        total = 0.0
        for share, feeds, teacher, labels in self._batch(step):
            loss = share * self._loss(self.net.run(feeds, self.wanted), teacher, labels)
            loss.backward()
            total += float(loss.detach())
        if not np.isfinite(total):
            hint = "a smaller lr, or clip; check the samples for values that are not finite"
            raise error("EC0328", f"the loss is {total} at batch {step + 1}", Location(self.student.source), hint)
        optimizer.step(step, self.zeros, caution)
        with torch.no_grad():
            for name, first in self.scales.items():  # positive, whatever a batch says
                self.net.parameters[name].clamp_(min=first * _LEAST_SCALE)
        return total

    def _held_losses(self) -> Losses:
        """Of each held-out sample, the mean over its views."""
        losses = np.zeros(len(self.held))
        with torch.no_grad():
            for i, view in enumerate(self.views):
                for at in chunks(range(len(self.held)), self.options.batch):
                    shown, numbers = [view[k] for k in at], [self.held[k] for k in at]
                    losses[at] += self._each_loss(shown, numbers, known=i == 0)
        return losses / len(self.views)

    def _each_loss(self, batch: Sequence[Arrays], numbers: Sequence[int], *, known: bool) -> list[float]:
        """Of each sample, though several may be run together."""
        losses = []
        for share, feeds, teacher, labels in self._values(batch, numbers, known=known):
            student = self.net.run(feeds, self.wanted)
            count = round(share * len(batch))
            for k in range(count):
                mine, theirs = ({n: _part(v, k, count) for n, v in found.items()} for found in (student, teacher))
                losses.append(float(self._loss(mine, theirs, None if labels is None else labels[k : k + 1])))
        return losses

    def _end_epoch(self, state: State, optimizer: Optimizer) -> None:
        """Later weights are kept unless earlier ones are surely better: they have seen more."""
        losses, least = self._held_losses(), np.asarray(state.least)
        held = float(losses.mean())
        if held < state.history[0][2] and not surely_above(losses, least):
            state.best, state.best_step = self._arrays(), state.step
        if held < least.mean():
            state.least = losses.tolist()
        elif ruined(losses, least):  # back to the best weights, in smaller steps
            state.caution *= _CAUTION
            self._set(state.best)
            optimizer.forget()
            self.tell(f"loss on held-out samples {held:.4g}: back to the best weights, lr times {state.caution:.2g}")
        state.history.append([state.step, float(np.mean(state.running)), held])
        state.running = []

    def _tell_progress(self, state: State, left: float) -> None:
        _, trained, held = state.history[-1]
        loss = float(np.mean(state.running)) if state.running else trained
        wait = "" if state.step == self.steps else f", {_duration(left)} left"
        self.tell(f"train: batch {state.step} of {self.steps}, loss {loss:.4g}, on held-out samples {held:.4g}{wait}")

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {n: p.detach().cpu().numpy().copy() for n, p in self.net.parameters.items()}

    def _keep(self, checkpoint: Checkpoint | None, state: State, optimizer: Optimizer) -> None:
        if checkpoint is not None:
            state.parameters, state.optimizer = self._arrays(), optimizer.arrays()
            checkpoint.save(state)
            self.saved = state.step

    def _restore(self, state: State, optimizer: Optimizer) -> None:
        self._set(state.parameters)
        optimizer.restore(state.optimizer)

    def _set(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        with torch.no_grad():
            for name, p in self.net.parameters.items():
                p.copy_(torch.from_numpy(arrays[name]))


def _part(value: Tensor, k: int, count: int) -> Tensor:
    """What sample `k` of `count` has of a value of all: a sample may be several rows of it."""
    if count == 1:
        return value
    rows = len(value) // count
    return value[k * rows : (k + 1) * rows]


def _duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
