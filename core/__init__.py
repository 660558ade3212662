"""Promotion of Azure ML models: what the product is about, free of any Azure library.

Reading order: `events` (what happened), `origin` (how the model was made), `packaging` (what it needs in order to be
served), `policy` (what the team wants), `commands` (what is put on the queue), `intake` (from the one to the other),
`promotion` (a delivery of a command, and the loop of observe, decide, act) and `realtime` (the decisions and effects for
an online endpoint). `ports` names what is needed of the outside; `adapters/` has it for Azure.
"""
