"""What serves models whose own packages cannot be installed here as they are pinned. Told in full: docs/stand-ins.md.

Automated ML and Designer pin packages for Pythons up to 3.10. Their real code runs on newer ones all the same, when it
is installed without its dependencies, beside libraries that have wheels for this Python. So what stands in is never
other code: it is another version of the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
# Packages of the SDK that a stand-in brings or that nothing imports while it scores.
SDK = "azureml-"
NOT_OF_THE_SDK = {"azureml-inference-server-http", "azureml-ai-monitoring"}


@dataclass(frozen=True)
class StandIn:
    """`marks` begin the names of packages that call for it; `lock` is installed without dependencies in their place.

    `startup` is run by Python at its start, for what newer libraries have dropped.
    """

    marks: tuple[str, ...]
    lock: Path
    startup: Path | None = None

    def brings(self) -> dict[str, str]:
        """Versions by name."""
        return dict(_locked(self.lock))

    def contents(self) -> str:
        """All that makes two environments with this stand-in differ."""
        return str(sorted(self.brings().items())) + (self.startup.read_text(encoding="utf-8") if self.startup else "")

    def replaces(self, name: str) -> bool:
        return name in self.brings() or (name.startswith(SDK) and name not in NOT_OF_THE_SDK)

    def note(self, asked: Iterable[Requirement], python: str) -> str:
        """The line for a deployment's log."""
        marked = sorted(str(each) for each in asked if canonicalize_name(each.name).startswith(self.marks))
        own = [f"{name}=={version}" for name, version in self.brings().items() if name.startswith(self.marks)]
        return (
            f"stand-in: {', '.join(marked)} cannot be installed with {python}; "
            f"{', '.join(own)} with newer libraries ({self.lock.name}) is used instead"
        )


STAND_INS = (
    StandIn(("azureml-designer-",), FOLDER / "designer.txt", FOLDER / "designer" / "sitecustomize.py"),
    StandIn(("azureml-train-automl", "azureml-automl-"), FOLDER / "automl.txt"),
)


def stand_in_for(names: Iterable[str]) -> StandIn | None:
    """The stand-in that an environment with packages of these canonical names needs here, if any."""
    asked = list(names)
    return next((each for each in STAND_INS if any(name.startswith(each.marks) for name in asked)), None)


def _locked(lock: Path) -> Iterable[tuple[str, str]]:
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from _locked(lock.parent / line[3:].strip())
        elif line and not line.startswith("#"):
            name, _, version = line.partition("==")
            yield canonicalize_name(name), version
