"""A run: how it is built, its folder, checkpoints, resume, lock, signals and processes."""
