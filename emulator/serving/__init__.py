"""Model serving for online deployments: Microsoft's own inference server, one for each deployment.

`servers` launches and watches them, `image_host` is the process inside the serving image that forks them, `environments`
decides whether the image satisfies a model, and `mlflow_score` is the entry script of no-code deployments.
"""
