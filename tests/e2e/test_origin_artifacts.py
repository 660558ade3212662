"""What Designer, Automated ML and people leave, from event to prediction; and what is refused, with the reason."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from demo.models import Trained, automl, designer, notebook
from tests.e2e.registering import register
from tests.e2e.test_realtime import ask
from tests.local import LocalAzure

PROD = {"promote-to": "prod"}


@pytest.mark.parametrize(
    ("name", "train", "origin"),
    [
        pytest.param(
            "automl-older-scores",
            partial(automl.older_form, task="classification", scoring="v1"),
            "automl",
            marks=pytest.mark.exhaustive,
        ),
        ("designer-by-hand", partial(designer.trained_model, layout="flattened"), "designer"),
        ("script-with-a-module", notebook.custom_script, "notebook"),
    ],
)
def test_a_model_answers_in_the_target_as_where_it_was_trained(
    local_azure: LocalAzure, tmp_path: Path, name: str, train: Callable[[Path], Trained], origin: str
) -> None:
    trained = train(tmp_path)
    register(local_azure, name, trained, PROD)
    row = local_azure.wait_for_end(name, seconds=150)
    assert (row["state"], row["origin"]) == ("succeeded", origin), row
    answers = trained.answers(ask(local_azure, row, trained.request))
    if isinstance(trained.predictions[0], float):
        assert answers == pytest.approx(trained.predictions)
    else:
        assert answers == trained.predictions


def refused(azure: LocalAzure, name: str, folder: Path, **tags: str) -> dict[str, Any]:
    from azure.ai.ml.entities import Model

    model = Model(name=name, path=str(folder), type="custom_model", tags=PROD | tags)
    azure.ml_client(azure.endpoints["source"]).models.create_or_update(model)

    def recorded() -> dict[str, Any] | None:
        events = azure.events_of(f"models/{name}:1")
        return events[0] if events else None

    event = azure.wait_for(recorded, what=f"what became of {name}")
    assert event["outcome"] == "refused", event
    assert event["remedy"]
    return event


def test_the_packed_graph_of_a_designer_endpoint_is_refused(local_azure: LocalAzure, tmp_path: Path) -> None:
    event = refused(local_azure, "amlstudio-test4", designer.packed_graph(tmp_path))
    assert event["reason"] == "not_servable"
    assert "Register the trained model instead" in event["remedy"]


def test_names_of_automl_without_content_prove_nothing(local_azure: LocalAzure, tmp_path: Path) -> None:
    assert refused(local_azure, "empty-names", automl.empty_names(tmp_path))["reason"] == "origin_unknown"


def test_a_model_of_which_nothing_is_known_is_refused_unless_the_rule_says_what_it_is(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"123")
    assert refused(local_azure, "nobody-knows", folder)["reason"] == "origin_unknown"
    event = refused(local_azure, "anything-goes", folder)
    assert event["reason"] == "not_servable", (
        "taken for a notebook's by its rule, it still needs something to serve it with"
    )
    assert "score.py" in event["why"]


def test_a_tag_decides_the_origin_and_the_files_how_to_serve(local_azure: LocalAzure, tmp_path: Path) -> None:
    trained = notebook.mlflow(tmp_path)
    register(local_azure, "tagged-origin", trained, PROD | {"promotion-origin": "automl"})
    row = local_azure.wait_for_end("tagged-origin", seconds=120)
    assert (row["state"], row["origin"]) == ("succeeded", "automl")
    assert "tag promotion-origin says so" in row["evidence"]
