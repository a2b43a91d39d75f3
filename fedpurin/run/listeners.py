"""What of Lightning's callbacks and hooks has no effect in a federated run: refused, or named in one line.

A run has no Trainer: callbacks get the hooks of `fedpurin.hooks.RunCallback` and `on_fit_end` of each client's fit. Owns: the
refusals and the remarks. Does not own: the hooks of a client's module that fits do call (`local/hooks.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning
from lightning import LightningModule

from fedpurin.config import ConfigError
from fedpurin.local.hooks import overridden

_EPOCHS = "clients fit trainer.local_epochs epochs in each of trainer.rounds rounds; leave it out"
_STEPS = "it needs a Trainer's loop; write what it does into the module's own hooks, or leave it out"
REFUSED = {
    "EarlyStopping": _EPOCHS,
    "Timer": _EPOCHS,
    "ModelCheckpoint": "fedpurin saves every checkpoint.every rounds and keeps the best by checkpoint.monitor; leave it out",
    "GradientAccumulationScheduler": _STEPS,
    "StochasticWeightAveraging": _STEPS,
    "WeightAveraging": _STEPS,
    "BaseFinetuning": _STEPS,
    "ModelPruning": _STEPS,
    "BatchSizeFinder": _STEPS,
    "LearningRateFinder": _STEPS,
}
"""Would change what is learned or kept; by the name of the class, or of one that it inherits from."""
IGNORED = (
    "train_dataloader", "val_dataloader", "test_dataloader", "teardown", "on_save_checkpoint", "on_load_checkpoint",
    "on_sanity_check_start", "on_sanity_check_end", "on_validation_model_eval", "on_validation_model_train",
    "on_validation_model_zero_grad", "on_test_epoch_start", "on_test_epoch_end", "on_test_start", "on_test_end",
    "on_test_batch_start", "on_test_batch_end", "on_test_model_eval", "on_test_model_train",
)  # fmt: skip
"""A module may have them, and nothing calls them here."""
_HOOKS = sorted({name for name in dir(lightning.Callback) if name.startswith("on_")} - {"on_fit_end"} | {"setup"})
"""Lightning's own for callbacks, but the one that is called."""


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuse callbacks that would change what is learned, ended or saved, if anybody called them here.

    Raises:
        ConfigError: one of `REFUSED`, of `lightning` or of `pytorch_lightning`; a class in an object's place.
    """
    for callback in callbacks:
        if isinstance(callback, type):
            raise ConfigError(f"callbacks: {callback.__name__} is a class; pass an object of it: {callback.__name__}()")
        for base in type(callback).__mro__:
            if base.__name__ in REFUSED and base.__module__.startswith(("lightning.", "pytorch_lightning.")):
                raise ConfigError(f"callbacks: {base.__name__} has no effect in a run: {REFUSED[base.__name__]}")


def remarks(module: LightningModule, callbacks: Iterable[Any]) -> list[str]:
    """A line for the module and for each callback whose own Lightning hooks nobody calls."""
    lines = []
    if ignored := [hook for hook in IGNORED if overridden(module, hook)]:
        lines.append(f"{type(module).__name__} overrides {', '.join(ignored)}: not called here")
    for callback in callbacks:
        if ignored := [hook for hook in _HOOKS if _defines(callback, hook)]:
            lines.append(
                f"the callback {type(callback).__name__} overrides {', '.join(ignored)}: not called here (called are "
                "on_fit_end of a client's fit, and the hooks of fedpurin.hooks.RunCallback)"
            )
    return lines


def _defines(callback: Any, hook: str) -> bool:
    """Whether the callback or a class before Lightning's plain `Callback` has the hook: Lightning's own callbacks do."""
    for base in type(callback).__mro__:
        if base.__name__ == "Callback":
            return False
        if hook in vars(base):
            return True
    return hook in vars(callback)
