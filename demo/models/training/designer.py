"""The modules of a Designer pipeline that learns to tell irises apart, called as the pipeline calls them.

Usage: designer.py FOLDER. Writes trained_model_outputs as the Train Model module leaves it in its run's artifacts, and
beside it expected.json: rows, the answer of the Score Model module to them, and where in an answer's row the label is.
"""

import json
import logging
import sys
import types
from pathlib import Path

# The Train Model module imports a package for explanations that needs compilers and is never called here.
EXPLANATIONS = "azureml.studio.modules.ml.common.mimic_explainer_wrapper"
sys.modules[EXPLANATIONS] = types.ModuleType(EXPLANATIONS)
sys.modules[EXPLANATIONS].explain_model = None  # type: ignore[attr-defined]

from azureml.studio.common.datatable.data_table import DataTable, DataTableColumnSelectionBuilder  # noqa: E402
from azureml.studio.common.datatypes import DataTypes  # noqa: E402
from azureml.studio.core.io.model_directory import save_model_to_directory  # noqa: E402
from azureml.studio.modulehost.handler.port_io_handler import OutputHandler  # noqa: E402
from azureml.studio.modules.ml.initialize_models.multi_classifier.logistic_regression_multiclassifier import (  # noqa: E402
    logistic_regression_multiclassifier as logistic_regression,
)
from azureml.studio.modules.ml.score.score_generic_module.score_generic_module import ScoreModelModule  # noqa: E402
from azureml.studio.modules.ml.train.train_generic_model.train_generic_model import TrainModelModule  # noqa: E402
from sklearn.datasets import load_iris  # noqa: E402

LABEL = "species"
SCORED = "Scored Labels"


def main(folder: Path) -> None:
    logging.disable(logging.INFO)
    data = load_iris(as_frame=True)
    rows = data.frame.drop(columns="target").rename(columns=lambda name: name.replace(" (cm)", ""))
    rows[LABEL] = [str(data.target_names[label]) for label in data.frame["target"]]
    settings = logistic_regression.LogisticRegressionDefaultParameters.to_dict()
    untrained = logistic_regression.MulticlassLogisticRegressionModule.run(**settings)[0]
    label = DataTableColumnSelectionBuilder().include_col_names(LABEL).build()
    learner = TrainModelModule.run(
        learner=untrained,
        training_data=DataTable(rows.sample(frac=1, random_state=1).reset_index(drop=True)),
        label_column_index_or_name=label,
        model_explanations=False,
    )[0]
    outputs = folder / "trained_model_outputs"
    outputs.mkdir()
    OutputHandler.handle_output_directory(
        learner, str(outputs), "data.ilearner", DataTypes.LEARNER, save_model_to_directory
    )
    asked = rows.iloc[::15].reset_index(drop=True)
    scored = ScoreModelModule().run(learner=learner, test_data=DataTable(asked.copy()), append_or_result_only=True)[0]
    expected = {
        "rows": asked.to_dict("records"),
        "answer": scored.data_frame.to_numpy().tolist(),
        "label": list(scored.data_frame.columns).index(SCORED),
    }
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
