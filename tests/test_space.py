"""The flat vector: layout, packing, roles and binding."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedpurin.space import (
    ALIGNMENT,
    Layout,
    ParameterSpace,
    Roles,
    finite_rows,
    pack_by_products,
    pack_mask,
    unpack_by_products,
    unpack_mask,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.normalisation = nn.BatchNorm2d(2)
        self.block = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4))
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.out = nn.Linear(4, 3)


def test_layout_places_segments_on_whole_words() -> None:
    layout = Layout.from_sizes([3, 64, 65])
    assert [s.offset for s in layout] == [0, 64, 128]
    assert (layout.length, layout.size) == (256, 132)
    assert [s.packed_slice for s in layout] == [slice(0, 1), slice(8, 16), slice(16, 25)]


def test_pack_mask_is_little_endian() -> None:
    mask = torch.zeros(64, dtype=torch.bool)
    mask[[0, 9, 63]] = True
    assert pack_mask(mask).tolist() == [1, 2, 0, 0, 0, 0, 0, 128]


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_unpack_inverts_pack(bits: list[bool]) -> None:
    mask = torch.tensor(bits + [False] * (-len(bits) % 8))
    packed = pack_mask(mask)
    assert torch.equal(unpack_mask(packed), mask)
    assert torch.equal(pack_by_products(mask), packed)
    assert torch.equal(unpack_by_products(packed), mask)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6))
def test_extract_inverts_embed_and_padding_is_zero(sizes: list[int]) -> None:
    layout = Layout.from_sizes(sizes)
    compact = torch.arange(1.0, layout.size + 1)
    vector = layout.embed(compact)
    assert torch.equal(layout.extract(vector), compact)
    assert vector[~layout.parameter_mask()].eq(0).all()
    assert all(s.offset % ALIGNMENT == 0 for s in layout)


def test_embed_rejects_another_size() -> None:
    with pytest.raises(ValueError, match="got \\(4,\\) elements; this layout has 3"):
        Layout.from_sizes([3]).embed(torch.zeros(4))


def test_overlapping_segments_are_rejected() -> None:
    good = Layout.from_sizes([100])
    with pytest.raises(ValueError, match="overlaps or is not aligned"):
        Layout((good.segments[0], good.segments[0]))


def test_roles_go_by_module_type_not_by_name() -> None:
    space = ParameterSpace(Net(), lambda s: True)
    norms = {s.name for s in space.layout if s.is_norm}
    heads = {s.name for s in space.layout if s.is_head}
    assert norms == {"normalisation.weight", "normalisation.bias", "block.1.weight", "block.1.bias"}
    assert heads == {"out.weight", "out.bias"}
    assert not any(s.name.startswith("frozen") for s in space.layout)


def test_explicit_roles() -> None:
    space = ParameterSpace(Net(), lambda s: True, Roles(head="block", norm=("conv",)))
    assert {s.name for s in space.layout if s.is_head} == {f"block.{i}.{p}" for i in (0, 1) for p in ("weight", "bias")}
    assert next(s for s in space.layout if s.name == "conv.bias").is_norm


def test_a_role_that_matches_nothing_raises() -> None:
    with pytest.raises(ValueError, match="'classifier' names no module"):
        ParameterSpace(Net(), lambda s: True, Roles(head="classifier"))


def test_resnet18_has_40_norm_tensors() -> None:
    from torchvision.models import resnet18

    space = ParameterSpace(resnet18(num_classes=10), lambda s: not s.is_norm)
    assert sum(s.is_norm for s in space.layout) == 40
    assert len(space.shared) == len(space.layout) - 40


def test_shared_segments_are_the_prefix() -> None:
    space = ParameterSpace(Net(), lambda s: not s.is_norm)
    names = [s.name for s in space.layout]
    assert names[: len(space.shared)] == [
        "conv.weight", "conv.bias", "block.0.weight", "block.0.bias", "out.weight", "out.bias",
    ]  # fmt: skip
    assert space.shared.size == 18 + 2 + 32 + 4 + 12 + 3


def test_bind_makes_parameters_views() -> None:
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    space = ParameterSpace(net, lambda s: True)
    vector = space.bind(net)
    for segment in space.layout:
        assert torch.equal(vector[segment.slice].view(segment.shape), before[segment.name])
    vector.fill_(2.0)
    assert net.conv.weight.eq(2.0).all()
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
    net.out(torch.ones(1, 4)).sum().backward()
    assert space.gather_gradients(net)[space.shared.segments[-1].slice].tolist() == [1.0, 1.0, 1.0]
    assert space.gather_gradients(net)[0] == 0.0  # a parameter that took no part counts as zero


def test_bind_asks_for_float32() -> None:
    net = nn.Linear(2, 2).double()
    with pytest.raises(ValueError, match="float32"):
        ParameterSpace(net, lambda s: True).bind(net)


def test_a_module_without_parameters_raises() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        ParameterSpace(nn.ReLU(), lambda s: True)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Linear(8, 16), nn.Unflatten(1, (16, 1)), nn.Conv1d(16, 3, 1)),
            "the last Linear is '0', but '2' (Conv1d) follows it: set roles.head",
        ),
        (nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16)), "the last Linear is '0', but '1' (LayerNorm) follows it"),
        (Tied(), "the last Linear is 'head', but its weight is 'embedding.weight' as well"),
    ],
)
def test_a_head_that_is_likely_another_layer_is_refused_where_it_matters(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ParameterSpace(module, lambda segment: not segment.is_head)
    assert ParameterSpace(module, lambda segment: True).shared.size > 0  # a method that does not ask takes it


def test_a_head_that_is_given_is_taken() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.Unflatten(1, (16, 1)), nn.Conv1d(16, 3, 1))
    space = ParameterSpace(module, lambda segment: not segment.is_head, Roles(head="2"))
    assert [segment.name for segment in space.layout if segment.is_head] == ["2.weight", "2.bias"]
    assert space.head == "2"
    with pytest.raises(ValueError, match=r"roles.head is 'head', but its weight is 'embedding.weight' as well"):
        ParameterSpace(Tied(), lambda segment: not segment.is_head, Roles(head="head"))


def test_rows_that_are_not_finite_are_told_apart() -> None:
    rows = torch.zeros(5, 64)
    rows[1, 63], rows[2, 0], rows[3, 5], rows[4, 7] = float("nan"), float("inf"), float("-inf"), 3e38
    assert finite_rows(rows) == [True, False, False, False, True]


def test_row_views_are_the_views_of_each_row() -> None:
    space = ParameterSpace(Net(), lambda segment: True)
    rows = torch.arange(2 * space.layout.length, dtype=torch.float32).view(2, -1)
    for k, row in enumerate(rows):
        for name, view in space.views(row).items():
            assert torch.equal(space.row_views(rows)[name][k], view)
    space.row_views(rows)[space.layout.segments[-1].name].fill_(-1.0)
    last = space.layout.segments[-1].slice
    assert (rows[:, last] == -1).all()
    assert int((rows == -1).sum()) == 2 * (last.stop - last.start)
