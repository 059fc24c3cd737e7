"""The target acme-a1, as an edgec plugin. Kept light: what the strings name is imported when it is used."""

from edgec import hookimpl


@hookimpl
def edgec_targets() -> dict[str, str]:
    return {"acme-a1": "edgec_acme.target:AcmeA1"}


@hookimpl
def edgec_passes() -> dict[str, str]:
    return {"acme-a1-sub-to-add": "edgec_acme.sub_to_add:SubToAdd"}
