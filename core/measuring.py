"""Finding out what a model version has shown: the metrics of the run that trained it, its tags, its age."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from core.errors import PromotionError
from core.events import WorkspaceId, is_run_id
from core.evidence import BEST_CHILD
from core.origin import Origin, Run
from core.policy import Rule
from core.ports import Source, SourceModel, Training
from core.quality import Quality, measured

# Where a sweep names the trial that it found best; Automated ML has a tag for it.
_BEST_TRIAL = "best_child_run_id"
# What Automated ML and sweeps note on a run: the value of the metric that was optimized, and its name.
_SCORE, _PRIMARY = "score", "primary_metric"


def is_needed(rule: Rule) -> bool:
    """Whether a gate of the rule or of one of its stages asks for what only a run knows."""
    gates = [rule.gates, *(stage.gates for stage in rule.stages)]
    return any(each is not None and (each.metrics or each.maximum_age) for each in gates)


def measure(
    source: Source,
    workspace: WorkspaceId,
    model: SourceModel,
    runs: Sequence[Run],
    *,
    origin: Origin | None,
    at: datetime,
    needed: bool,
) -> Quality:
    """`runs` are the run that wrote the model and those above it. Of two that logged a metric, the nearest counts.

    Raises as `Source.training` does where it is needed; otherwise what could not be read is noted.
    """
    trainings: list[Training] = []
    unread = ""
    try:
        trainings += [found for run_id in _asked(runs) if (found := source.training(workspace, run_id)) is not None]
    except PromotionError as problem:
        if needed:
            raise
        unread = str(problem)[:300]
    logged = [(f"run {each.run_id}", each.metrics) for each in trainings]
    noted = [(f"run {run.id}", _scores(run.properties)) for run in runs]
    return Quality(
        metrics=measured([*logged, *noted], ("tag", model.tags), ("property", model.properties)),
        tags=model.tags,
        origin=origin,
        asked_at=at,
        registered_at=model.created_at,
        trained_at=next((each.ended_at for each in trainings if each.ended_at), None),
        pending=any(each.is_running for each in trainings),
        unread=unread,
    )


def _asked(runs: Sequence[Run]) -> Iterator[str]:
    """The best trial of the run that wrote the model, that run, and those above it."""
    for best in {runs[0].tags.get(BEST_CHILD), runs[0].properties.get(_BEST_TRIAL)} if runs else ():
        if best and is_run_id(best):
            yield best
    yield from (run.id for run in runs)


def _scores(properties: Mapping[str, str]) -> dict[str, float]:
    try:
        score = float(properties[_SCORE])
    except (KeyError, ValueError):
        return {}
    return {_SCORE: score} | ({properties[_PRIMARY]: score} if properties.get(_PRIMARY) else {})
