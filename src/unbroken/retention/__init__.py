"""Which checkpoints stay and why.

`policy` decides with pure functions of records; `apply` removes what no rule keeps.
"""
