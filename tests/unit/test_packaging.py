"""Manifests and recipes as values: their digests, and what is selected of a manifest."""

import pytest

from core.packaging import File, Manifest
from tests.unit.builders import a_manifest, a_recipe


def test_a_manifest_survives_being_kept() -> None:
    manifest = a_manifest()
    kept = Manifest.model_validate_json(manifest.model_dump_json())
    assert (kept, kept.digest) == (manifest, manifest.digest)


def test_a_manifest_counts_its_files() -> None:
    assert (a_manifest().size, a_manifest().paths()) == (645 + 4179, ("MLmodel", "model.pkl"))


@pytest.mark.parametrize("field", ["account_url", "container", "root", "folder"])
def test_the_digest_tells_two_manifests_apart(field: str) -> None:
    assert a_manifest(**{field: "other"}).digest != a_manifest().digest


def test_equal_content_has_an_equal_digest_in_whatever_order_it_was_written() -> None:
    one, other = {"a": {"x": 1, "y": 2}, "b": {}}, {"b": {}, "a": {"y": 2, "x": 1}}
    assert a_recipe(flavors=one).digest == a_recipe(flavors=other).digest


def test_files_are_selected_under_the_folder_that_a_script_relies_on() -> None:
    nested = a_manifest(files=(File(path="a/b/score.py", size=1, etag="1"), File(path="a/x", size=2, etag="2")))
    selected = nested.selected((nested.files[0],), below="a/b", folder="trained_model_outputs")
    assert (selected.root, selected.folder, selected.paths()) == (
        "LocalUpload/0a1b/model/a/b",
        "trained_model_outputs",
        ("score.py",),
    )


def test_all_files_selected_are_the_same_manifest() -> None:
    manifest = a_manifest()
    assert manifest.selected(manifest.files, folder=manifest.folder).digest == manifest.digest
