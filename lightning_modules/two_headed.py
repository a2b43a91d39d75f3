"""A client with a generic and a personal head on one body: FedRoD (Chen & Chao, ICLR 2022, arXiv 2107.00778).

Owns: the personal head; the balanced softmax loss (Ren et al., NeurIPS 2020) of the generic one, which also trains
the body; the cross-entropy of both heads' sum, which trains the personal one alone; and that sum as the prediction.
Does not own: the body and the generic head (the class it is mixed into), what is shared (the method).
"""

from __future__ import annotations

import copy
from typing import Any

from jaxtyping import Float32
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from fedpurin.local.context import loss_context
from lightning_modules.mixing import add_to_loss


class TwoHeaded(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; `add_personal_head` makes it work.

    The network's output must be the head's: logits [batch, classes]. Batches are (x, y), and the client's own loss is
    the cross-entropy of the logits; `values["log_prior"]` [classes], γ·log N_c of the class counts N, is added to them in
    training and makes it the balanced softmax loss. A class that is not there has −∞: no logit.
    """

    personal_head: nn.Module
    _seen: tuple[Tensor, Tensor] | None = None

    def add_personal_head(self, path: str) -> None:
        """Copy the head at the dotted module path; the copy's logits are added to those of the generic head there."""
        generic_head = self.get_submodule(path)
        self.personal_head = copy.deepcopy(generic_head)
        generic_head.register_forward_hook(self._at_generic_head)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        if output is None:
            self._seen = None
            return None
        assert self._seen is not None, "the generic head has run"
        features, generic = self._seen
        self._seen = None
        both = generic.detach() + self.personal_head(features.detach())
        return add_to_loss(output, functional.cross_entropy(both, batch[1]))

    def _at_generic_head(self, head: nn.Module, inputs: tuple[Tensor, ...], generic: Tensor) -> Tensor:
        """In training the generic logits and the prior; in evaluation the sum of both heads."""
        if not self.training:
            both: Tensor = generic + self.personal_head(inputs[0])
            return both
        self._seen = inputs[0], generic
        log_prior = loss_context().values.get("log_prior")
        return generic if log_prior is None else generic + self._prior_of(log_prior, generic.shape[1])

    @staticmethod
    def _prior_of(log_prior: Tensor | float, num_classes: int) -> Float32[Tensor, " classes"]:
        assert isinstance(log_prior, Tensor)
        return functional.pad(log_prior, (0, num_classes - len(log_prior)), value=float("-inf"))
