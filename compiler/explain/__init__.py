"""Explanations of the diagnostic codes, one page each: `EC0401.md`, whose first line is `# EC0401: title`."""

from __future__ import annotations

from importlib.resources import files

from edgec.diagnostics import did_you_mean, error


def titles() -> dict[str, str]:
    """Code -> title, in order."""
    pages = sorted((p for p in files(__name__).iterdir() if p.name.startswith("EC")), key=lambda p: p.name)
    firsts = ((p.name.removesuffix(".md"), p.read_text(encoding="utf-8").partition("\n")[0]) for p in pages)
    return {code: first.partition(": ")[2] for code, first in firsts}


def page(code: str) -> str:
    """The page of a code, however it is spelt: EC0401, ec0401, 0401, 401.

    Raises:
        EdgecError: EC0930 there is no such code.
    """
    digits = code.upper().removeprefix("EC")
    wanted = f"EC{digits.zfill(4)}" if digits.isdigit() else code
    source = files(__name__).joinpath(f"{wanted}.md")
    if not digits.isdigit() or not source.is_file():
        hint = did_you_mean(wanted, [*titles()], "`edgec explain` lists all codes")
        raise error("EC0930", f"there is no diagnostic {code!r}", hint=hint)
    return source.read_text(encoding="utf-8").rstrip()
