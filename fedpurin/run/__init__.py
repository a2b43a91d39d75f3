"""A run: how it is built (`compose.py`, `build.py`), its folder, checkpoints, resume, lock, signals and processes."""
