"""The text of a fused-unit pattern, parsed: `Conv -> Add -> Relu|Clip` or `Mul(x, Sigmoid(x))`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"\s*(->|\.\.\.|[a-z]\w*=|[A-Za-z_][\w.:]*|#\w*|-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|[(),|])")


@dataclass(frozen=True)
class Any_:
    """Any value; the same name twice is the same value. `constant`: known at compile time."""

    name: str
    constant: bool = False


@dataclass(frozen=True)
class Number:
    """A constant with one element of this value."""

    value: float


@dataclass(frozen=True)
class Op:
    """A node of one of `ops`. `rest`: it may have more inputs. `name`: its output may be read again under this name."""

    ops: tuple[str, ...]
    inputs: tuple[Term, ...] = ()
    rest: bool = True
    name: str | None = None


Term = Any_ | Number | Op


def parse(text: str) -> Op:
    """Read a pattern; the result is the last node of the unit.

    Raises:
        ValueError: what is wrong, and where.
    """
    tokens = _tokens(text)
    links = [_link(tokens, text)]
    while tokens and tokens[0] == "->":
        tokens.pop(0)
        links.append(_link(tokens, text))
    if tokens:
        raise ValueError(f"unit pattern {text!r}: unexpected {tokens[0]!r}")
    root = links[0]
    for link in links[1:]:
        if link.inputs:
            raise ValueError(f"unit pattern {text!r}: only the first link of a chain has inputs written out")
        root = Op(link.ops, (root,), rest=True)
    return root


def _tokens(text: str) -> list[str]:
    out, pos = [], 0
    while text[pos:].strip():
        m = _TOKEN.match(text, pos)
        if m is None:
            raise ValueError(f"unit pattern {text!r}: cannot read {text[pos:].strip()!r}")
        out.append(m[1])
        pos = m.end()
    return out


def _link(tokens: list[str], text: str) -> Op:
    term = _term(tokens, text)
    if not isinstance(term, Op):
        raise ValueError(f"unit pattern {text!r}: an op type is expected")
    return term


def _term(tokens: list[str], text: str) -> Term:
    if not tokens:
        raise ValueError(f"unit pattern {text!r} ends too early")
    token = tokens.pop(0)
    if token.startswith("#"):
        return Any_(token[1:], constant=True)
    if token[0].isdigit() or token[0] == "-":
        return Number(float(token))
    if token.endswith("="):
        inner = _link(tokens, text)
        return Op(inner.ops, inner.inputs, inner.rest, token[:-1])
    if not (token[0].isalpha() or token[0] == "_"):
        raise ValueError(f"unit pattern {text!r}: unexpected {token!r}")
    if token[0].islower() or token == "_":
        return Any_("" if token == "_" else token)
    ops = [token]
    while tokens and tokens[0] == "|":
        tokens.pop(0)
        ops.append(tokens.pop(0) if tokens else "")
    if any(not op[:1].isupper() and "::" not in op for op in ops):
        raise ValueError(f"unit pattern {text!r}: op types stand on both sides of |")
    if not tokens or tokens[0] != "(":
        return Op(tuple(ops))
    tokens.pop(0)
    return _inputs(tuple(ops), tokens, text)


def _inputs(ops: tuple[str, ...], tokens: list[str], text: str) -> Op:
    inputs: list[Term] = []
    rest = False
    while tokens and tokens[0] != ")":
        if tokens[0] == "...":
            tokens.pop(0)
            rest = True
        else:
            inputs.append(_term(tokens, text))
        if tokens and tokens[0] == ",":
            tokens.pop(0)
    if not tokens:
        raise ValueError(f"unit pattern {text!r}: a closing parenthesis is missing")
    tokens.pop(0)
    return Op(ops, tuple(inputs), rest)
