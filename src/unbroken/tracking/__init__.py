"""Weights & Biases and MLflow: what is durable of a run's curves goes on to the tracker that the user has."""
