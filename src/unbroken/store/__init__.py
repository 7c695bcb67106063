"""Checkpoints as files: durable writes, the checkpoint container, the folder of one run, the lock.

Knows files, not learners: nothing here imports torch, Gymnasium or Stable-Baselines3.
`durable` is the only module of the package that syncs and replaces files.
"""
