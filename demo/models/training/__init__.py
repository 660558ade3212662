"""Programs that run in the tools' own environments, each given a folder and its settings as JSON.

They import nothing of this project: there they have only what the tool itself would have.
"""
