"""Route templates of HTTP triggers, as ASP.NET's routing reads them: `items/{id:int?}`, `files/{*path}`."""

import re
from dataclasses import dataclass
from functools import cached_property

from emulator.functions_host.configuration import ConfigurationError

PARAMETER = re.compile(
    r"\{(?P<rest>\*{0,2})(?P<name>\w+)(?::(?P<constraint>[^}=?]+))?(?:=(?P<default>[^}?]*))?(?P<optional>\?)?\}"
)
CONSTRAINTS = {
    "int": r"-?\d{1,10}",
    "long": r"-?\d{1,19}",
    "bool": r"(?:true|false)",
    "guid": r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}",
    "alpha": r"[a-z]+",
    "decimal": r"-?\d+(?:\.\d+)?",
    "double": r"-?\d+(?:\.\d+)?",
    "float": r"-?\d+(?:\.\d+)?",
}
# ASP.NET tries the more specific template first, segment by segment.
LITERAL, CONSTRAINED, FREE, CATCH_ALL = range(4)


@dataclass(frozen=True)
class Route:
    """A template that a path may match."""

    template: str

    def match(self, path: str) -> dict[str, str] | None:
        """The route parameters of this path (without leading slash and prefix), or None if it does not match."""
        if not (match := self._compiled[0].fullmatch(path.strip("/"))):
            return None
        given = {name: value for name, value in match.groupdict().items() if value is not None}
        return self._compiled[1] | given

    @cached_property
    def precedence(self) -> tuple[int, ...]:
        return tuple(_rank(segment) for segment in self._segments)

    @cached_property
    def _segments(self) -> list[str]:
        return [segment for segment in self.template.strip("/").split("/") if segment]

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str], dict[str, str]]:
        pattern, defaults = "", {}
        for position, segment in enumerate(self._segments):
            expression = _expression(segment, self.template)
            whole = PARAMETER.fullmatch(segment)
            if whole and whole["default"] is not None:
                defaults[whole["name"]] = whole["default"]
            slash = "/" if position else ""
            may_be_absent = whole and (whole["optional"] or whole["rest"] or whole["default"] is not None)
            pattern += f"(?:{slash}{expression})?" if may_be_absent else slash + expression
        return re.compile(pattern, re.IGNORECASE), defaults


def _rank(segment: str) -> int:
    if not (parameter := PARAMETER.search(segment)):
        return LITERAL
    if parameter["rest"]:
        return CATCH_ALL
    return CONSTRAINED if parameter["constraint"] else FREE


def _expression(segment: str, template: str) -> str:
    """The regular expression of one segment: literal text with parameters in it."""
    expression, end = "", 0
    for parameter in PARAMETER.finditer(segment):
        expression += re.escape(segment[end : parameter.start()])
        expression += f"(?P<{parameter['name']}>{_value(parameter, template)})"
        end = parameter.end()
    rest = segment[end:]
    if "{" in rest or "}" in rest:
        raise ConfigurationError(f"The route template {template!r} has an unbalanced or unreadable parameter.")
    return expression + re.escape(rest)


def _value(parameter: re.Match[str], template: str) -> str:
    if parameter["rest"]:
        return ".*"
    if not (constraint := parameter["constraint"]):
        return "[^/]+"
    if constraint not in CONSTRAINTS:
        raise ConfigurationError(
            f"The route template {template!r} uses the constraint {constraint!r}; "
            f"this host knows {', '.join(CONSTRAINTS)}."
        )
    return CONSTRAINTS[constraint]
