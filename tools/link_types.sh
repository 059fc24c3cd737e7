#!/usr/bin/env bash
# build/types/edgec: a link tree, so that mypy sees the packages under their import names.
# (Type checkers cannot follow the import hook of an editable install; docs/adr/0002.)
set -eu
cd "$(dirname "$0")/.."
rm -rf build/types && mkdir -p build/types/edgec
for f in compiler/*; do ln -s "../../../$f" build/types/edgec/; done
for d in passes targets specs; do ln -s "../../../$d" build/types/edgec/; done
