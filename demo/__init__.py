"""The main job, shown from a data scientist's chair: `python -m demo`.

`scenarios` trains models and says how they are registered; `azure` is the client side of the local Azure; `progress`
shows a promotion as it happens; `__main__` puts them together and writes the report.
"""
