"""The `reader` command: one file a command, nothing heavy until a command runs."""

from __future__ import annotations

from collections.abc import Callable

import typer

from runtime.cli import datastore, evolve, export, import_, judge, kv, latency
from runtime.cli._shared import guarded
from runtime.cli.advise import advise
from runtime.cli.audit import audit
from runtime.cli.calibrate import calibrate
from runtime.cli.cost import cost
from runtime.cli.demo import demo
from runtime.cli.diffuse import diffuse
from runtime.cli.export_head import export_head
from runtime.cli.fetch import fetch
from runtime.cli.fit import fit
from runtime.cli.grammar_gap import grammar_gap
from runtime.cli.inflate import inflate
from runtime.cli.inspect_head import inspect_head
from runtime.cli.plan import plan
from runtime.cli.record import record
from runtime.cli.report import report
from runtime.cli.run import run
from runtime.cli.show import show
from runtime.cli.sweep import sweep
from runtime.cli.train_head import train_head
from runtime.cli.validate import validate
from runtime.cli.watch import watch

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How deep and wide a draft tree should be: record, fit, calibrate, plan, run, validate, report.\n\n"
    "Every stage reads documents and writes one, into out/ unless told otherwise. Exit codes: 0 done, 1 a bug of ours, "
    "2 bad input, 3 no feasible plan, or with --strict a measurement outside its interval.",
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "fetch": fetch,
    "record": record,
    "fit": fit,
    "calibrate": calibrate,
    "cost": cost,
    "plan": plan,
    "run": run,
    "validate": validate,
    "report": report,
    "sweep": sweep,
    "advise": advise,
    "watch": watch,
    "export": export.command,
    "import": import_.command,
    "grammar-gap": grammar_gap,
    "diffuse": diffuse,
    "latency": latency.command,
    "audit": audit,
    "inflate": inflate,
    "train-head": train_head,
    "export-head": export_head,
    "inspect-head": inspect_head,
    "show": show,
    "demo": demo,
}
for name, command in _COMMANDS.items():
    app.command(name)(guarded(command))
app.add_typer(datastore.app, name="datastore")
app.add_typer(evolve.app, name="evolve")
app.add_typer(judge.app, name="judge")
app.add_typer(kv.app, name="kv")


def main() -> None:
    """Entry point of the `reader` command."""
    app()


if __name__ == "__main__":
    main()
