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
    """The modules beside this file: tests are no package."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("random_graphs")
    finally:
        sys.path.remove(folder)
