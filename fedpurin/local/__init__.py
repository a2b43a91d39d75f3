"""A client's state and its local training: `client.py`, `fit.py`, then `trainer.py`; docs/design.md lists the files."""
