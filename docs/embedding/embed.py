"""edgec's pass manager inside another tool: no globals, no command line. A test runs this file."""

import sys

from edgec import Graph, PassContext, PassManager, Registry
from edgec.recipe import build_passes, parse_pipeline


class Timer:
    """An instrument: anything with before() and after()."""

    def before(self, p, graph):  # type: ignore[no-untyped-def]
        pass

    def after(self, p, graph, result, seconds):  # type: ignore[no-untyped-def]
        print(f"{p.spec():30} {seconds * 1e3:6.1f} ms  {dict(result.stats)}")


def main(source: str, out: str) -> None:
    graph = Graph.load(source)
    passes = build_passes(parse_pipeline("constants-to-initializers,fold-bn,eliminate-noops"), Registry().passes())
    PassManager(passes, instruments=[Timer()], verify="structure").run(graph, PassContext())
    graph.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:3])
