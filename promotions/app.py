"""All commands, and the run of one."""

import logging
import sys
import time
from collections.abc import Callable, Sequence

import typer

from promotions.command import PROGRAM, Surroundings
from promotions.commands import endpoints, failed, insight, policies, promotions

app = typer.Typer(
    name="promotions",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback of ours must not show local variables
    rich_markup_mode=None,
    help="Model promotions: see them, ask for them, decide about them.",
    epilog=(
        "PROMOTIONS_URL says where the service is, PROMOTIONS_KEY holds a function key; --help of each command has more. "
        "Exit codes: 0 done, 1 refused or failed, 2 wrong use or no answer, 3 waits for a person (--watch), 10 something "
        "would change (plan), 130 Ctrl-C."
    ),
)
for module in (promotions, endpoints, insight, policies, failed):
    app.add_typer(module.app)


@app.callback()
def _root() -> None:
    """Model promotions: see them, ask for them, decide about them."""


def main(arguments: Sequence[str], *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Run one command; its exit code."""
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # what goes wrong is told by us, in one sentence
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding does not have
    try:
        app(list(arguments), prog_name=PROGRAM, obj=Surroundings(sleep=sleep))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
