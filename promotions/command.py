"""What all commands share: the options that say where and as whom, and how a command ends."""

import functools
import inspect
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from promotions import signing_in
from promotions.client import Client
from promotions.exits import Exit, Failure
from promotions.render import Output
from promotions.text import clean

PROGRAM = "python -m promotions"
P = ParamSpec("P")
_ORDER_KEY = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True)
class Surroundings:
    """What a run takes from outside besides its arguments."""

    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Session:
    """One run of one command. `key` makes an order that is sent again one order."""

    ask: Client
    output: Output
    sleep: Callable[[float], None]
    key: str

    def order(self, *path: str, **body: Any) -> Any:
        """Ask for something that changes state."""
        return self.ask.post(*path, body=body, key=self.key).content

    def confirm(self, question: str, expected: str | None = None) -> None:
        """Go on only if the user says so: by `y`, or by typing what is expected. Raises Failure."""
        sys.stderr.write(f"{question} ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        given = line.strip()
        if given == expected if expected is not None else given.lower() in ("y", "yes"):
            return
        if not line:
            sys.stderr.write("\n")
        raise Failure("Not confirmed; nothing was sent.", "" if line else "Where nobody can answer, give --yes.")


Handler = Callable[Concatenate[Session, P], Exit | None]

_COMMON: dict[str, tuple[Any, Any]] = {
    "url": (
        Annotated[
            str | None,
            typer.Option("--url", help=f"The function app's address. [env: {signing_in.URL}]"),
        ],
        None,
    ),
    "key_file": (
        Annotated[
            Path | None,
            typer.Option(
                "--key-file",
                help=f"A file with the function key; without it, the key is in the variable {signing_in.KEY}.",
            ),
        ],
        None,
    ),
    "scope": (
        Annotated[
            str | None,
            typer.Option(
                "--scope",
                help="Sign in with Microsoft Entra ID for this scope, such as api://APP/.default, as `az login`, the "
                f"environment or a managed identity allows. [env: {signing_in.SCOPE}]",
            ),
        ],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print the service's JSON and nothing else.")], False),
}
_ORDER: dict[str, tuple[Any, Any]] = {
    "idempotency_key": (
        Annotated[
            str | None,
            typer.Option("--idempotency-key", help="The same key makes a repeated command the same order."),
        ],
        None,
    )
}


def group(name: str | None = None, *, help: str | None = None, parent: typer.Typer | None = None) -> typer.Typer:
    """Commands that belong together; without a name they stand beside those of their parent."""
    made = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=help)
    if parent is not None:
        parent.add_typer(made, name=name)
    return made


def command(
    app: typer.Typer, name: str, *, example: str, orders: bool = False
) -> Callable[[Handler[P]], Callable[..., None]]:
    """Register a handler as a command. `example` is what stands after the program's name; `orders`: it changes state."""
    common = _COMMON | (_ORDER if orders else {})

    def register(handler: Handler[P]) -> Callable[..., None]:
        @functools.wraps(handler)
        def run(**given: Any) -> None:
            context: typer.Context = given.pop("context")
            options = {name: given.pop(name) for name in common}
            raise typer.Exit(_run(handler, context.obj or Surroundings(), options, given))

        own = list(inspect.signature(handler).parameters.values())[1:]
        parameters = [
            inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
                for name, (annotation, default) in common.items()
            ),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # read by typer
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, epilog=f"\b\nExample:\n  {PROGRAM} {example}")(run)
        return run

    return register


def _run(handler: Callable[..., Exit | None], surroundings: Surroundings, options: Any, given: dict[str, Any]) -> int:
    output = Output(as_json=options["as_json"])
    try:
        service = signing_in.service(options["url"], options["key_file"], options["scope"], os.environ)
        client = Client(service, sleep=surroundings.sleep, notice=output.note)
        session = Session(client, output, surroundings.sleep, _order_key(options.get("idempotency_key")))
        return _handled(handler, session, given)
    except Failure as failure:
        output.error(failure.sentence, failure.remedy)
        return failure.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _handled(handler: Callable[..., Exit | None], session: Session, given: dict[str, Any]) -> int:
    try:
        return handler(session, **given) or Exit.OK
    except (KeyError, TypeError, AttributeError) as error:
        raise Failure(
            f"The service's answer is not what this client knows ({type(error).__name__}: {clean(error)}).",
            "Use the client of the service's own version; --json shows the answer as it is.",
        ) from error


def _order_key(given: str | None) -> str:
    if given is None:
        return uuid.uuid4().hex
    if not _ORDER_KEY.fullmatch(given):
        raise Failure("The idempotency key is none: 1 to 200 letters, digits or marks, and no blanks.")
    return given
