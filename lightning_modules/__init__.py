"""What clients train: Lightning modules, plain and with the client-side losses of personalised methods."""

from lightning_modules.classifier import ImageClassifier

__all__ = ["ImageClassifier"]
