"""Samples: what calibration and verification iterate over."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, Location

Arrays = dict[str, npt.NDArray[Any]]


class Samples:
    """Re-iterable. Each sample is one run's worth of inputs: the model's own input names, shapes and dtypes.

    `describe`: what they are, for the report ("1000 images of calib/"). `generated`: made up, not real data.
    `diagnostics`: where warnings found while reading go (NaN, another content on the second pass).
    """

    def __init__(
        self,
        make: Callable[[], Iterator[Arrays]],
        *,
        describe: str,
        count: int | None = None,
        generated: bool = False,
        diagnostics: Diagnostics | None = None,
    ) -> None:
        self._make = make
        self._count = count
        self._digest: str | None = None
        self.describe = describe
        self.generated = generated
        self.diagnostics = diagnostics if diagnostics is not None else Diagnostics()
        self.start_of: Samples | None = None
        """The samples these are the first of (`take`)."""

    def __iter__(self) -> Iterator[Arrays]:
        digest = hashlib.sha256()
        seen = 0
        for sample in self._make():
            _update(digest, sample)
            seen += 1
            yield sample
        self._finished(seen, digest.hexdigest())

    def _finished(self, seen: int, digest: str) -> None:
        """What a complete pass taught: the count, and whether the source yields the same every time."""
        self._count = seen
        if self._digest is not None and self._digest != digest:
            message = "the source yields other samples on each pass, so results cannot be reproduced"
            self.diagnostics.warn(
                "EC0716", message, Location(self.describe), "make it deterministic: a fixed seed, a fixed order"
            )
        self._digest = digest

    def __len__(self) -> int:
        """How many samples. A function's results have to be counted by one pass over them, once."""
        if self._count is None:
            self.digest()
        assert self._count is not None  # set by the pass
        return self._count

    def digest(self) -> str:
        """SHA-256 of all samples: names, dtypes, shapes and bytes. Costs one pass unless one was completed before."""
        if self._digest is None:
            for _ in self:
                pass
        assert self._digest is not None  # set by the pass
        return self._digest

    def take(self, n: int) -> Samples:
        """The first `n`."""
        if self._count is not None and n >= self._count:
            return self
        known = n if self._count is not None else None
        out = Samples(
            lambda: islice(self._make(), n),
            describe=f"the first {n} of {self.describe}",
            count=known,
            generated=self.generated,
            diagnostics=self.diagnostics,
        )
        out.start_of = self
        return out

    def apart(self, numbers: Collection[int]) -> tuple[Samples, Samples]:
        """Those with these numbers, counted from 0, and all others."""
        chosen = Samples(
            lambda: (sample for i, sample in enumerate(self._make()) if i in numbers),
            describe=f"{len(numbers)} of {self.describe}",
            count=len(numbers),
            generated=self.generated,
            diagnostics=self.diagnostics,
        )
        return chosen, self.without(numbers)

    def without(self, numbers: Collection[int]) -> Samples:
        """All but those with these numbers, counted from 0."""
        return Samples(
            lambda: (sample for i, sample in enumerate(self._make()) if i not in numbers),
            describe=f"{self.describe} without {len(numbers)}",
            generated=self.generated,
            diagnostics=self.diagnostics,
        )


def _update(digest: Any, sample: Arrays) -> None:
    for name in sorted(sample):
        array = sample[name]
        digest.update(f"{name}\n{array.dtype.name}\n{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
