"""The scripts that run in the target's jobs and servers, in the model's own environment, which may be Python 3.7.

They are shipped as flat files and find each other by bare names: nothing else of this project exists there. They need
the standard library, pandas (with pyarrow for Parquet) and, for MLflow models, mlflow.
"""
