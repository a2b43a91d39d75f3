"""What of a module is no part of any client, because it requires no gradient; nothing may change it while clients fit.

Owns: noticing that a hook or a step does (a moving average of the weights, a layer that thaws after some epochs). Each
client would then go on from what another left, and the result would depend on who runs where. Does not own: what is a
part of a client (`fedpurin.space`, `trainer.still_buffers`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedpurin.config import ConfigError

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class FrozenParts:
    """The parameters of a module that require no gradient when this is made, and what they hold."""

    def __init__(self, module: nn.Module) -> None:
        self.name = type(module).__name__
        self.parameters = {name: p for name, p in module.named_parameters() if not p.requires_grad}
        self._sums = {name: _sum(parameter) for name, parameter in self.parameters.items()}

    def check(self) -> None:
        """Compare with the beginning.

        Raises:
            ConfigError: a parameter changed, or requires a gradient now.
        """
        for name, parameter in self.parameters.items():
            if parameter.requires_grad:
                raise ConfigError(
                    f"model: {self.name} lets {name} require a gradient while it fits; what is frozen at the start is no "
                    "part of a client: let it require a gradient from the start, and freeze it in a hook"
                )
            if _sum(parameter) != self._sums[name]:
                raise ConfigError(
                    f"model: {self.name} changes {name} while it fits, which requires no gradient and so is no part of a "
                    "client: all would go on from each other's. Make it a buffer (register_buffer), or let it require a "
                    "gradient and leave it out of the optimizer"
                )


def _sum(parameter: Tensor) -> int:
    """A number that another content hardly shares: the sum of its words as whole numbers."""
    flat = parameter.detach().contiguous().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    return int(flat.view(WORDS[flat.element_size()]).sum(dtype=torch.int64)) if flat.numel() else 0
