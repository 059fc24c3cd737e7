"""What the property tests share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def random_graphs() -> Iterator[Any]:
    """Any graphs."""
    yield from _beside("random_graphs")


@pytest.fixture(scope="module")
def prunable_graphs() -> Iterator[Any]:
    """Networks of the shapes that channels are cut from."""
    yield from _beside("prunable_graphs")


def _beside(module: str) -> Iterator[Any]:
    """A module beside this file: tests are no package."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module(module)
    finally:
        sys.path.remove(folder)
