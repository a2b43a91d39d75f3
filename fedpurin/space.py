"""A model's parameters as one flat vector with named segments and roles.

Owns: where each parameter tensor lies in the flat vector, which tensors are norms and which the head, the
views that make a module's parameters slices of one buffer, and the packed form of a mask over that vector.
Does not own: what a method shares (it passes a predicate), scores, codecs, sums.

Layout of the vector. Shared segments come first, in module order, then the private ones, so the shared part
of a client is always the prefix `vector[:shared.length]`. Every segment starts at a multiple of `ALIGNMENT`
elements; the padding between segments holds zeros, scores nothing and is never sent. Thus a mask packed
little-endian, eight parameters a byte, starts every segment on a whole 64-bit word, and the vector is packed,
compared and counted whole, without a loop over tensors.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor, nn

ALIGNMENT = 64  # elements: 256 bytes of float32 (vector loads stay aligned), 8 bytes of mask (one popcount word)

NORM_TYPES: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # BatchNorm, SyncBatchNorm and InstanceNorm of every dimension
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One parameter tensor inside a flat vector: elements `[offset, offset + size)`."""

    name: str
    offset: int
    size: int
    shape: tuple[int, ...]
    is_norm: bool = False
    is_head: bool = False

    @property
    def slice(self) -> builtins.slice:
        return slice(self.offset, self.offset + self.size)

    @property
    def packed_slice(self) -> builtins.slice:
        """This segment's bytes in a packed mask: ⌈size / 8⌉ of them."""
        return slice(self.offset // 8, self.offset // 8 + (self.size + 7) // 8)


@dataclass(frozen=True)
class Layout:
    """Segments laid out in one vector of `length` elements, of which `size` are parameters, the rest padding."""

    segments: tuple[Segment, ...]
    length: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        end = 0
        for segment in self.segments:
            if segment.offset % ALIGNMENT or segment.offset < end:
                raise ValueError(f"segment {segment.name!r} at offset {segment.offset} overlaps or is not aligned")
            end = segment.offset + segment.size
        object.__setattr__(self, "length", _align(end))
        object.__setattr__(self, "size", sum(segment.size for segment in self.segments))

    @classmethod
    def from_sizes(cls, sizes: Sequence[int], names: Sequence[str] | None = None) -> Layout:
        """Lay out one-dimensional segments of the given sizes (elements), for scores that come without a model."""
        names = names or [f"tensor{index}" for index in range(len(sizes))]
        return cls.from_segments(Segment(name, 0, size, (size,)) for name, size in zip(names, sizes, strict=True))

    @classmethod
    def from_segments(cls, segments: Iterable[Segment]) -> Layout:
        """Lay the segments out one after the other, whatever their offsets were."""
        placed, offset = [], 0
        for segment in segments:
            placed.append(replace(segment, offset=offset))
            offset = _align(offset + segment.size)
        return cls(tuple(placed))

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    def embed(self, compact: Tensor) -> Tensor:
        """Spread a vector of `size` elements, segments back to back, over a zero-padded one of `length`."""
        if compact.shape != (self.size,):
            raise ValueError(f"got {tuple(compact.shape)} elements; this layout has {self.size} parameters")
        out = compact.new_zeros(self.length)
        start = 0
        for segment in self.segments:
            out[segment.slice] = compact[start : start + segment.size]
            start += segment.size
        return out

    def extract(self, vector: Tensor) -> Tensor:
        """The inverse of `embed`: drop the padding."""
        return torch.cat([vector[segment.slice] for segment in self.segments])

    def parameter_mask(self, device: torch.device | None = None) -> Bool[Tensor, " length"]:
        """True where the vector holds a parameter, False in the padding."""
        return self.embed(torch.ones(self.size, dtype=torch.bool)).to(device)


def pack_mask(mask: Bool[Tensor, " length"]) -> UInt8[Tensor, " packed"]:
    """Pack eight parameters a byte, parameter q in bit q % 8 of byte q // 8. `length` is a multiple of 8."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))
    return pack_by_products(mask)


def pack_by_products(mask: Bool[Tensor, " length"]) -> UInt8[Tensor, " packed"]:
    """`pack_mask` in torch's operations, for every device."""
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (mask.view(-1, 8).to(torch.uint8) * weights).sum(dim=1, dtype=torch.uint8)


def unpack_mask(packed: UInt8[Tensor, " bytes"]) -> Bool[Tensor, " 8*bytes"]:
    """The inverse of `pack_mask`."""
    if packed.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(packed.numpy(), bitorder="little").view(np.bool_))
    return unpack_by_products(packed)


def unpack_by_products(packed: UInt8[Tensor, " bytes"]) -> Bool[Tensor, " 8*bytes"]:
    """`unpack_mask` in torch's operations, for every device."""
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=packed.device)
    return (packed.unsqueeze(1) & weights).ne(0).view(-1)


def finite_rows(rows: Float32[Tensor, "clients length"]) -> list[bool]:
    """Of each row, whether all of it is finite: NaN and infinity show in its extremes.

    Two reductions of a row are 20 times as fast on a CPU as `aminmax` of it.
    """
    finite: list[bool] = torch.isfinite(torch.stack((rows.amin(dim=1), rows.amax(dim=1)))).all(dim=0).tolist()
    return finite


@dataclass(frozen=True)
class Roles:
    """How a module's tensors get their roles.

    A norm is decided by module type; `norm` adds modules by dotted path, for home-made ones. `head` is a dotted
    module path; None takes the last `nn.Linear` of the module, which a method that depends on the head refuses where
    it is likely another layer. A path that matches nothing raises.
    """

    head: str | None = None
    norm: tuple[str, ...] = ()

    def head_path(self, module: nn.Module) -> str | None:
        """Where the module's head is, for whoever depends on it; None where it has none.

        Raises:
            ValueError: the last `nn.Linear` is likely not the head, because layers with parameters follow it or its
                weight is another layer's too; or a given path that cannot be the head.
        """
        path = self.found_head(module)
        if path is not None:
            modules = dict(module.named_modules())
            why = "" if self.head else _what_follows(modules, path)
            if why := why or _tied(module, path):
                found = "roles.head" if self.head else "the last Linear"
                raise ValueError(
                    f"{found} is {path!r}, but {why}: set roles.head to the module that clients keep as their head "
                    f"(there are {_some(modules)})"
                )
        return path

    def found_head(self, module: nn.Module) -> str | None:
        """The given head, or the last `nn.Linear`; None where there is neither."""
        modules = dict(module.named_modules())
        for path in (*self.norm, *([self.head] if self.head else [])):
            if path not in modules or not any(True for _ in modules[path].parameters()):
                raise ValueError(f"roles: {path!r} names no module with parameters; there are {_some(modules)}")
        return self.head or _last_linear(modules)


class ParameterSpace:
    """The trainable parameters of one module as one flat float32 vector, shared segments first.

    `bind(module)` moves the module's parameters into `vector`, as views: from then on, loading a client is one
    copy into `vector`. Parameters that do not require a gradient are not part of the space.
    """

    def __init__(self, module: nn.Module, shares: Callable[[Segment], bool], roles: Roles | None = None) -> None:
        described = list(describe_parameters(module, roles or Roles()))
        if not described:
            raise ValueError(f"{type(module).__name__} has no trainable parameter")
        shared = [segment for segment in described if shares(segment)]
        private = [segment for segment in described if not shares(segment)]
        roles = roles or Roles()
        self.head = roles.found_head(module)
        """Dotted path of the head; None where the module has none."""
        if any(shares(replace(segment, is_head=not segment.is_head)) != shares(segment) for segment in described):
            roles.head_path(module)  # this method depends on it: refuse a guess that is likely wrong
        self.layout = Layout.from_segments(shared + private)
        self.shared = Layout(self.layout.segments[: len(shared)])

    def bind(self, module: nn.Module) -> Float32[Tensor, " length"]:
        """Make the module's parameters views of one new flat vector on their device, and return it."""
        parameters = dict(module.named_parameters())
        first = parameters[self.layout.segments[0].name]
        vector = torch.zeros(self.layout.length, dtype=torch.float32, device=first.device)
        for segment in self.layout:
            parameter = parameters[segment.name]
            if parameter.dtype != torch.float32:
                raise ValueError(f"{segment.name} is {parameter.dtype}; clients keep float32 parameters")
            view = vector[segment.slice].view(segment.shape)
            view.copy_(parameter.data)
            parameter.data = view
        return vector

    def views(self, vector: Float32[Tensor, " length"]) -> dict[str, Tensor]:
        """A vector's parameters by name, as views of it in their shapes."""
        return {segment.name: vector[segment.slice].view(segment.shape) for segment in self.layout}

    def row_views(self, vectors: Float32[Tensor, "clients length"]) -> dict[str, Tensor]:
        """`views` of many vectors at once: each parameter [clients, *shape]."""
        return {s.name: vectors[:, s.slice].view(len(vectors), *s.shape) for s in self.layout}

    def gather_gradients(self, module: nn.Module) -> Float32[Tensor, " shared_length"]:
        """The shared parameters' gradients as one vector; a parameter without a gradient counts as zero."""
        parameters = dict(module.named_parameters())
        device = next(iter(parameters.values())).device
        vector = torch.zeros(self.shared.length, dtype=torch.float32, device=device)
        for segment in self.shared:
            gradient = parameters[segment.name].grad
            if gradient is not None:
                dense = gradient.to_dense() if gradient.is_sparse else gradient  # of an embedding that asks for it
                vector[segment.slice].view(segment.shape).copy_(dense)
        return vector


def describe_parameters(module: nn.Module, roles: Roles) -> Iterator[Segment]:
    """Yield a segment with its roles, not yet placed, for each trainable parameter in module order."""
    modules = dict(module.named_modules())
    head = roles.found_head(module)
    norms = {name for name, child in modules.items() if isinstance(child, NORM_TYPES)} | set(roles.norm)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            owners = _ancestors(name)
            yield Segment(
                name=name,
                offset=0,
                size=parameter.numel(),
                shape=tuple(parameter.shape),
                is_norm=not norms.isdisjoint(owners),
                is_head=head in owners if head else False,
            )


def _align(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _ancestors(parameter_name: str) -> set[str]:
    """Dotted paths of every module that contains the parameter, the root ('') left out."""
    parts = parameter_name.split(".")[:-1]
    return {".".join(parts[: depth + 1]) for depth in range(len(parts))}


def _last_linear(modules: dict[str, nn.Module]) -> str | None:
    linear = [name for name, child in modules.items() if isinstance(child, nn.Linear)]
    return linear[-1] if linear else None


def _what_follows(modules: dict[str, nn.Module], head: str) -> str:
    """Which layer with parameters of its own stands after the head in the module's order; empty where none does."""
    names = list(modules)
    for name in names[names.index(head) + 1 :]:
        if any(True for _ in modules[name].parameters(recurse=False)) and not name.startswith(f"{head}."):
            return f"{name!r} ({type(modules[name]).__name__}) follows it"
    return ""


def _tied(module: nn.Module, head: str) -> str:
    """Which parameter outside the head is one of the head's; empty where none is."""
    own = {id(parameter) for parameter in module.get_submodule(head).parameters()}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not name.startswith(f"{head}."):
            return f"its weight is {name!r} as well"
    return ""


def _some(modules: dict[str, nn.Module], limit: int = 8) -> str:
    names = [name for name in modules if name]
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
