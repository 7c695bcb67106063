"""A run travels between machines through a remote: laptop, rented machine, laptop again (D5)."""
