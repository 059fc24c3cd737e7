"""What the property tests share."""

from __future__ import annotations

from types import ModuleType

import prunable_graphs as made_to_prune
import pytest
import random_graphs as any_graphs


@pytest.fixture(scope="module")
def random_graphs() -> ModuleType:
    """Any graphs."""
    return any_graphs


@pytest.fixture(scope="module")
def prunable_graphs() -> ModuleType:
    """Networks of the shapes that channels are cut from."""
    return made_to_prune
