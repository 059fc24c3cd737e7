"""What the benchmarks' Markdown tables have in common."""

from __future__ import annotations


def head(*titles: str) -> list[str]:
    """The two lines a table begins with."""
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]


def failed(name: str, why: str, columns: int) -> str:
    """A row of a tool that made nothing: the reason takes the second cell, the others stay empty."""
    return f"| {name} | failed: {why.replace('|', '/')} |" + " |" * (columns - 2)
