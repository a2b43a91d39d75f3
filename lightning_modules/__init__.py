"""What clients train: Lightning modules, plain and with the client-side losses of personalised methods."""

from lightning_modules.aggregating import Aggregating
from lightning_modules.classifier import ImageClassifier
from lightning_modules.corrected import Corrected
from lightning_modules.distilling import Distilling
from lightning_modules.interpolating import Interpolating
from lightning_modules.masking import Masking
from lightning_modules.meta import Adapting, Enveloping
from lightning_modules.powered import Powered
from lightning_modules.prototyping import Prototyping
from lightning_modules.proximal import Proximal
from lightning_modules.regressor import Regressor
from lightning_modules.timm_classifier import TimmClassifier
from lightning_modules.two_headed import TwoHeaded

__all__ = [
    "Adapting",
    "Aggregating",
    "Corrected",
    "Distilling",
    "Enveloping",
    "ImageClassifier",
    "Interpolating",
    "Masking",
    "Powered",
    "Prototyping",
    "Proximal",
    "Regressor",
    "TimmClassifier",
    "TwoHeaded",
]
