"""Metrics of the user's: a Python function that says how good a model is, and how much of that may be lost."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import EdgecError, Location, error

if TYPE_CHECKING:
    from edgec.runtime import Session

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Metric:
    """Higher is better. Two forms of the function, told apart by how many arguments it must have:

    predict: `f(predict) -> float`. It brings its own data and labels and calls `predict(x)`, which takes the model's
        input (an array, a dict by name, or one array for each input) and returns the list of outputs.
    outputs: `f(outputs, reference) -> float`. Both are lists with a dict of outputs by name for each verification
        sample: of the model judged, and of the float model.
    """

    source: str
    function: Callable[..., Any]
    form: Literal["predict", "outputs"]

    def of_session(self, session: Session, inputs: Sequence[str]) -> float:
        """The first form, on a loaded model. `inputs`: the model's input names in order."""
        return self._call(_predictor(session.run, inputs))

    def of_runner(
        self, run: Callable[[Iterable[Arrays]], Iterable[Arrays]], session: Session, inputs: Sequence[str]
    ) -> float:
        """The first form, on what takes many samples at a time. The function is called twice: what it asks of `session`, a
        model of the same inputs and outputs, is run together, then it gets those answers. It must ask the same again."""
        asked: list[Arrays] = []

        def record(feeds: Arrays) -> Arrays:
            asked.append(feeds)
            return session.run(feeds)

        self._call(_predictor(record, inputs))
        answers = iter(run(asked))

        def replay(feeds: Arrays) -> Arrays:
            found = next(answers, None)
            if found is None:
                raise error(
                    "EC0753", "the metric asks for more predictions when it is called again", Location(self.source)
                )
            return {name: found[name] for name in session.names}

        return self._call(_predictor(replay, inputs))

    def of_outputs(self, outputs: Iterable[Arrays], reference: Iterable[Arrays]) -> float:
        """The second form."""
        return self._call(list(outputs), list(reference))

    def _call(self, *arguments: Any) -> float:
        """Raises EC0753 where the function fails or returns no number."""
        where = Location(self.source)
        try:
            value = self.function(*arguments)
        except EdgecError:
            raise
        except Exception as e:  # a user's function may fail in any way
            raise error("EC0753", f"the metric failed: {type(e).__name__}: {e}", where) from e
        number = np.asarray(value)
        if number.size != 1 or number.dtype.kind not in "fiub" or not math.isfinite(float(number.reshape(()))):
            hint = "return one finite number; higher is better"
            raise error("EC0753", f"the metric returned {_short(value)}, not a number", where, hint)
        return float(number.reshape(()))


def load_metric(source: str) -> Metric:
    """From `path/to/metric.py:function` or `module:function`. The file is the user's own program: it is executed.

    Raises:
        EdgecError: EC0752 it cannot be imported, has no such function, or the function has other arguments.
    """
    from edgec.samples.functions import is_function, load_function

    where = Location(source)
    hint = "write metric.py:function, where the function takes (predict) or (outputs, reference)"
    if not is_function(source):
        raise error("EC0752", f"{source!r} does not name a function", where, hint)
    try:
        function = load_function(source)
    except EdgecError as e:
        raise error("EC0752", e.diagnostics[0].message, where, hint) from e
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # built-in functions need not have a signature
        raise error("EC0752", f"the arguments of {source} cannot be told", where, hint) from None
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(needed) not in (1, 2):
        raise error("EC0752", f"the metric takes {len(needed)} arguments, not 1 or 2", where, hint)
    return Metric(source, function, "predict" if len(needed) == 1 else "outputs")


def _predictor(run: Callable[[Arrays], Arrays], inputs: Sequence[str]) -> Callable[..., list[npt.NDArray[Any]]]:
    def predict(*values: Any, **by_name: Any) -> list[npt.NDArray[Any]]:
        if len(values) == 1 and isinstance(values[0], dict):
            feeds = dict(values[0])
        elif len(values) + len(by_name) == len(inputs):
            feeds = {**dict(zip(inputs, values, strict=False)), **by_name}
        else:
            what = f"predict got {len(values) + len(by_name)} inputs, the model has {len(inputs)}: {', '.join(inputs)}"
            raise error("EC0753", what, hint="call predict(x), predict({name: x}) or predict(x1, x2)")
        return list(run({k: np.asarray(v) for k, v in feeds.items()}).values())

    return predict


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_DROP = re.compile(r"^\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|pt|pp|)\s*$")


@dataclass(frozen=True)
class Drop:
    """How much of a metric may be lost: a part of the float model's value, or an amount in the metric's own unit."""

    amount: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Drop:
        """`1%` is a hundredth of the float model's value; `0.5pt` (or `0.5`) is 0.5 in the metric's own unit.

        Raises:
            EdgecError: EC0754 it is neither.
        """
        found = _DROP.match(text)
        if found is None:
            raise error("EC0754", f"cannot read a drop of {text!r}", hint="write 1% (of the float value) or 0.5pt")
        amount = float(found[1])
        return cls(amount / 100, True) if found[2] == "%" else cls(amount, False)

    def floor(self, value: float) -> float:
        """The lowest metric that is still accepted where the float model has `value`."""
        return value - (abs(value) * self.amount if self.relative else self.amount)

    def __str__(self) -> str:
        return f"{self.amount * 100:g}%" if self.relative else f"{self.amount:g}pt"
