"""What environments answered between two checkpoints, on disk: a slow simulator's steps are made once."""
