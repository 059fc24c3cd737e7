"""Built-in targets, registered exactly like a third party's."""

from edgec.hookspecs import hookimpl


@hookimpl
def edgec_targets() -> dict[str, str]:
    return {}
