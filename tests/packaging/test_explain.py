"""Every diagnostic code has a page, and every page a code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [p for f in ("compiler", "passes", "targets", "specs") for p in (ROOT / f).rglob("*.py")]
PAGES = {p.stem: p for p in (ROOT / "compiler" / "explain").glob("EC*.md")}


def codes_used() -> set[str]:
    return {code for p in SOURCES if "templates" not in p.parts for code in re.findall(r'"(EC0\d{3})"', p.read_text())}


def test_every_code_has_a_page() -> None:
    assert sorted(codes_used() - set(PAGES)) == []


def test_every_page_belongs_to_a_code() -> None:
    assert sorted(set(PAGES) - codes_used()) == []


def test_pages_begin_with_their_code() -> None:
    for code, page in PAGES.items():
        first = page.read_text().splitlines()[0]
        assert re.fullmatch(rf"# {code}: \S.*", first), f"{page.name} begins with {first!r}"
