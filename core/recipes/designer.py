"""The model directory that a Designer module leaves in `trained_model_outputs`."""

from pathlib import PurePosixPath

from core import environments
from core.errors import not_servable
from core.packaging import Code
from core.recipes.material import Folder, Material, Packaged, is_below, looked_in, parent, text_of
from core.recipes.serving import scripted
from core.scoring_contract import designer_contract, read_contract

TRAINED_MODEL = "trained_model_outputs"
DESIGNER_MARK = "_meta.yaml"
DESIGNER_PARTS = ("score.py", "conda_env.yaml", "_schema.json", "model_spec.yaml")
DESIGNER_SAMPLES = "_samples.json"


def directory(files: tuple[str, ...]) -> str | None:
    """The folder of a Designer model directory in the registered one: itself, or the nearest below."""
    marks = {parent(path) for path in files if PurePosixPath(path).name == DESIGNER_MARK}
    specs = {parent(path) for path in files if PurePosixPath(path).name in ("model_spec.yaml", "score.py")}
    return min(marks & specs, key=lambda below: (below.count("/"), below), default=None)


def has_part(material: Material) -> bool:
    """Whether only a part was registered, and the run's own folder has the rest."""
    trained = material.run_folder(TRAINED_MODEL)
    return trained is not None and directory(trained.manifest.paths()) == ""


def package(material: Material, below: str | None) -> Packaged:
    """Its score.py, with the folder name restored by which that script finds the model."""
    folder, below = (material.folder, below) if below is not None else (_whole_directory(material), "")
    paths = {file.path: file for file in folder.manifest.files if is_below(file.path, below)}
    names = {PurePosixPath(path).relative_to(below or ".").as_posix(): path for path in paths}
    missing = [name for name in DESIGNER_PARTS if name not in names]
    if missing:
        raise not_servable(
            f"the Designer model has no {' and no '.join(missing)}; {looked_in(folder, below)}",
            f"Register the whole folder {TRAINED_MODEL} of the Train Model module's run.",
        )
    texts = {name: text_of(folder, names[name]) for name in (*DESIGNER_PARTS, DESIGNER_SAMPLES) if name in names}
    samples = texts.get(DESIGNER_SAMPLES)
    read_contract(texts["score.py"], where="score.py")
    contract = designer_contract(
        samples.encode() if samples else None, texts["_schema.json"].encode(), where=DESIGNER_SAMPLES
    )
    environment = environments.for_designer(texts["conda_env.yaml"], where="conda_env.yaml")
    code = Code(files={"score.py": texts["score.py"]}, scoring_script="score.py")
    recipe = scripted("designer", material, code, environment, contract, DESIGNER_SAMPLES, folder_name=TRAINED_MODEL)
    return Packaged(folder.manifest.selected(tuple(paths.values()), below=below, folder=TRAINED_MODEL), recipe)


def _whole_directory(material: Material) -> Folder:
    """The run's model directory, of which the registered files must be a part as they are there."""
    folder = material.run_folder(TRAINED_MODEL)
    assert folder is not None  # noqa: S101 - has_part looked
    theirs = {PurePosixPath(file.path).name: file for file in folder.manifest.files}
    for file in material.folder.manifest.files:
        other = theirs.get(PurePosixPath(file.path).name)
        if other is None or (other.size, other.md5 or file.md5) != (file.size, file.md5 or other.md5):
            raise not_servable(
                f"{file.path} differs from what the run left in {TRAINED_MODEL}, which has the parts that are missing here",
                f"Register the whole folder {TRAINED_MODEL}, with score.py and conda_env.yaml.",
            )
    return folder
