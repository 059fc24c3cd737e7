"""The table of commands. A command's module is imported when that command is used: `edgec --help` imports none."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

EPILOG = (
    "Exit codes: 0 done; 1 error in the model, the target or an input; 2 wrong command line; 3 verification failed; "
    "4 vendor toolchain failed; 70 bug in edgec or a plugin; 130 interrupted. All of it: docs/cli.md"
)

COMMANDS: dict[str, tuple[str, str]] = {
    "compile": ("edgec.cli.compile", "Compile a model (or the project edgec.yaml) for a target, and verify it."),
    "opt": ("edgec.cli.opt", "Run passes on a model: ONNX in, ONNX out."),
    "quantize": ("edgec.cli.quantize", "Quantise a model: ONNX in, ONNX with Q/DQ out, compared with the float model."),
    "distill": ("edgec.cli.distill", "Train a small model towards a large one, without labels: ONNX in, ONNX out."),
    "check": ("edgec.cli.check", "Show where each node would run; needs no vendor SDK."),
    "inspect": ("edgec.cli.inspect", "Show what is in a model."),
    "compare": ("edgec.cli.compare", "Compare two models' outputs, or all their layers, on the same inputs."),
    "bench": ("edgec.cli.bench", "Measure the latency of models on ONNX Runtime on this machine."),
    "bisect": ("edgec.cli.bisect", "Find the pass that breaks a model's numbers."),
    "targets": ("edgec.cli.targets", "List targets; show one with its options, precisions and op table."),
    "passes": ("edgec.cli.passes", "List passes; show one with its options."),
    "toolchain": ("edgec.cli.toolchain", "List, install, remove or examine vendor SDKs."),
    "explain": ("edgec.cli.explain", "Explain a diagnostic: edgec explain EC0401."),
    "check-spec": ("edgec.cli.check_spec", "Check spec files of targets, op tables and pipelines."),
    "new": ("edgec.cli.new", "Make a plugin package with a target or a pass of your own, tests included."),
    "doctor": ("edgec.cli.doctor", "Check this installation, its plugins and toolchains."),
}


class _Lazy(TyperGroup):
    """A group that knows its commands' names and help; it imports a command to run it."""

    def invoke(self, ctx: Any) -> Any:
        from edgec.cli.failures import Interrupted

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as e:
            raise Interrupted from e

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, help_text = COMMANDS[cmd_name]
        made = import_module(module).app
        command = typer.main.get_command(made)
        command.name = cmd_name
        command.short_help = help_text
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        from edgec.diagnostics import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command is called {args[0]!r}; " + did_you_mean(args[0], list(COMMANDS), "see edgec --help"))
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        with formatter.section("Options"):
            formatter.write_dl([r for p in self.get_params(ctx) if (r := p.get_help_record(ctx)) is not None])
        self.format_epilog(ctx, formatter)


def _version(wanted: bool) -> None:
    if wanted:
        from edgec import __version__

        typer.echo(f"edgec {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile a trained ONNX model into verified artifacts for an edge accelerator."""


def app() -> Any:
    """The command tree, ready to be called with arguments."""
    made = typer.Typer(
        cls=_Lazy,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    made.callback()(_root)
    return typer.main.get_command(made)


def single(**settings: Any) -> typer.Typer:
    """A Typer for a module that is one command, with the settings all commands share."""
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        **settings,
    )
