"""What `remotes.kaggle_dataset` is made of: the session with the service, transfers, and the index of what a dataset holds."""
