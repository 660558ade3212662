"""Azure Machine Learning at the wire: ARM's control plane, the run history, and online endpoints that really serve.

Reading order: `service` (what it is made of), `arm` (routes, errors, pages), `workspaces` and `assets` (what is registered),
`jobs`, then `operations`, `online`, `online_endpoints`, `deployer` and `scoring` (how a model is served), `events`, `control`.
"""

from emulator.azure_ml.service import AzureML

__all__ = ["AzureML"]
