"""A client's state and its local training."""
