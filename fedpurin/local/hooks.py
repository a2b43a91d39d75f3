"""What of Lightning's interface a user's class overrides, and the step signatures that it may leave short.

Owns: the question "is this hook the user's own?", for classes of `lightning` and of `pytorch_lightning`. Does not own:
when a hook is called (`trainer.py`).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from lightning import LightningModule
from torch import nn

LIBRARIES = ("lightning.", "pytorch_lightning.", "lightning_fabric.", "torch.nn.modules.module")
STEPS = ("training_step", "validation_step")

BATCH_HOOKS = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "configure_gradient_clipping", "on_train_batch_end",
)  # fmt: skip
"""Called around every step, in Lightning's order, where the module has its own."""
CALLED = (
    "on_fit_start", "on_fit_end", "on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end",
    "on_validation_epoch_start", "on_validation_epoch_end", "lr_scheduler_step", *BATCH_HOOKS,
)  # fmt: skip
"""All that a fit or an evaluation calls."""
NOT_CALLED = (
    "optimizer_step", "optimizer_zero_grad", "backward", "configure_callbacks", "configure_sharded_model",
    "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer", "prepare_data",
    "on_validation_start", "on_validation_end", "on_validation_batch_start", "on_validation_batch_end",
)  # fmt: skip
"""Would change what is learned or measured, and is not done here: a module that overrides one is refused."""
NO_TRAINER = ("is not attached to a `Trainer`", "not available when using Fabric")
REMOVED = (
    "training_epoch_end", "validation_epoch_end", "training_step_end", "validation_step_end", "on_epoch_start",
    "on_epoch_end", "on_pretrain_routine_start", "on_pretrain_routine_end", "tbptt_split_batch",
)  # fmt: skip
"""Hooks of Lightning 1 that Lightning 2 does not call either; a module that still has one relies on it."""


def overridden(owner: Any, hook: str) -> bool:
    """Whether a module or callback defines this hook itself; what it inherits from Lightning is not its own."""
    if hook in vars(owner):
        return True
    for base in type(owner).__mro__:
        if hook in vars(base):
            return not f"{base.__module__}.".startswith(LIBRARIES)
    return False


def asks_for_trainer(error: BaseException) -> bool:
    """Whether it is Lightning's answer to a module that asks for its Trainer."""
    return any(sign in str(error) for sign in NO_TRAINER)


def one_line(error: BaseException) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    text = text if len(text) < 300 else text[:297] + "…"
    if asks_for_trainer(error):
        text += " (a client has no Trainer; self.current_epoch, self.global_step and self.round count)"
    return text


def is_lightning(module: nn.Module) -> bool:
    """Whether it is a LightningModule, of either package."""
    other = sys.modules.get("pytorch_lightning")  # who has one of its modules has imported it
    return isinstance(module, LightningModule) or (other is not None and isinstance(module, other.LightningModule))


def lightning_parts(module: nn.Module) -> list[nn.Module]:
    """LightningModules inside this one, which log, clip and count as it does."""
    return [part for part in module.modules() if part is not module and is_lightning(part)]


def takes_batch_index(step: Callable[..., Any]) -> bool:
    """Whether a step, as a function of (self, batch, …), takes the batch's number: Lightning leaves that open."""
    kinds = [parameter.kind for parameter in inspect.signature(step).parameters.values()]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Parameter.VAR_POSITIONAL in kinds or sum(kind in positional for kind in kinds) > 2


def without_index(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step with the signature that everything else calls it by."""

    def with_index(self: Any, batch: Any, batch_idx: int) -> Any:
        return step(self, batch)

    return with_index


def accepts_stacks(listener: Any) -> bool:
    """Whether a callback takes many fitted clients at once (`fedpurin.hooks.StackListener`).

    Not if a subclass has an `on_fit_end` of its own: it has to be called.
    """
    order = type(listener).__mro__
    owner = next((cls for cls in order if "on_fit_end" in vars(cls)), None)
    return owner is not None and "fits_ended" in vars(owner) and "on_fit_end" not in vars(listener)
