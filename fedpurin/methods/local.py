"""Separate training: every client alone with its own data, nothing sent. The floor of every comparison."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from fedpurin.methods.base import OPTIONS, Method
from fedpurin.space import Segment


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Local(Method):
    """Shares nothing, sends nothing, keeps everything."""

    keeps_models: ClassVar[bool] = True

    def shares(self, segment: Segment) -> bool:
        return True  # names the tensors that the sparsity measures and the dense baseline refer to
