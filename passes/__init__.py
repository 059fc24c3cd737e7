"""Built-in passes, one a file; the folders stand in processing order: prepare, optimize, legalize."""

from edgec.hookspecs import hookimpl


@hookimpl
def edgec_passes() -> dict[str, str]:
    return {
        **_table("prepare", _PREPARE),
        **_table("optimize", _OPTIMIZE),
        **_table("legalize", _LEGALIZE),
    }


def _table(folder: str, classes: dict[str, str]) -> dict[str, str]:
    """`fold-bn` lives in `optimize/fold_bn.py`."""
    return {name: f"edgec.passes.{folder}.{name.replace('-', '_')}:{cls}" for name, cls in classes.items()}


_PREPARE: dict[str, str] = {}

_OPTIMIZE: dict[str, str] = {
    "fold-bn": "FoldBatchNorm",
}

_LEGALIZE: dict[str, str] = {}
