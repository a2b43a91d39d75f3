"""Experiment trackers: Weights & Biases, TensorBoard, and what is uploaded later."""
