"""Long jobs over many items: cut into shards, mapped over this machine's processes or a Ray cluster, resumable.

`run_shards` is the one place for it: `predict`, `train expert` and `evaluate` give it a `Work` and their items.
"""
