"""A classifier on a network of the package timm (`pip install 'fedpurin[timm]'`), whole or with a trainable head only.

Owns: making the network for these data, and what of it stays frozen. Does not own: the loss (classifier.py). Nothing is
downloaded unless `pretrained` asks for it.
"""

from __future__ import annotations

import difflib
from typing import Any, Literal

from torch import nn

from lightning_modules.classifier import ImageClassifier


class TimmClassifier(ImageClassifier):
    """`trains="head"` freezes all but the network's own classifier: clients then keep and send nothing but the head.

    A frozen part stays in evaluation mode: its running statistics do not move, and are the same for all clients.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int = 3,
        image_size: int | None = None,
        *,
        pretrained: bool = False,
        trains: Literal["all", "head"] = "all",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        if trains not in ("all", "head"):
            raise ValueError(f"model.trains={trains} is not possible: all or head")
        network: Any = make_network(name, num_classes, in_channels, image_size, pretrained)
        super().__init__(network, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.trains = trains
        if trains == "head":
            found = network.get_classifier()
            self._heads = list(found) if isinstance(found, tuple) else [found]
            network.requires_grad_(False)
            for head in self._heads:
                head.requires_grad_(True)

    def train(self, mode: bool = True) -> TimmClassifier:
        super().train(mode)
        if self.trains == "head":
            self.backbone.eval()
            for head in self._heads:
                head.train(mode)
        return self


def make_network(name: str, num_classes: int, in_channels: int, image_size: int | None, pretrained: bool) -> nn.Module:
    """The network of this name, with a classifier and an input for these data.

    Raises:
        ValueError: the package, the name or the weights are not to be had.
    """
    try:
        import timm  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise ValueError("model=timm needs the package timm: pip install 'fedpurin[timm]'") from None
    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(f"model.name={name}: timm has no such network; near are {', '.join(near) or 'none'}")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": num_classes, "in_chans": in_channels}
    try:
        if image_size is not None:
            try:  # transformers have to know the size; networks of convolutions know no such argument
                sized: nn.Module = timm.create_model(name, img_size=image_size, **options)
                return sized
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
        network: nn.Module = timm.create_model(name, **options)
    except (RuntimeError, OSError) as error:
        if not pretrained:
            raise
        text = " ".join(str(error).split())[:160]
        raise ValueError(
            f"model.pretrained=true: the weights of {name} cannot be had ({text}); download them where there is a network, or "
            "start from random ones with model.pretrained=false"
        ) from error
    return network
