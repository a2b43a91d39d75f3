"""Many clients as one computation: K models in one stack, stepped together by `torch.func`.

A small network's step costs less arithmetic than the calls that make it up. Here K clients share those calls: their
flat vectors are the rows of one tensor, the module's own `training_step` runs once under `vmap`, and one optimizer steps
all rows (`stack.py`). Clients keep their own batches and order. At every step those whose batch has the same length
run together; nobody waits for padding, and who has no step left leaves the stack.

Owns: fits and evaluations of a cohort. Does not own: whether a module allows it (`choice.py`), the live module.
Equal to the serial executor within float tolerance: sums inside a kernel may run in another order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils import _pytree as pytree

from fedpurin.local.client import Client, Diverged, FitResult
from fedpurin.local.context import LossContext, set_loss_context
from fedpurin.local.executor import Plan, SerialExecutor
from fedpurin.local.fit import LocalFit
from fedpurin.local.hooks import accepts_stacks, overridden
from fedpurin.local.stack import Stack
from fedpurin.local.stacked_batches import StackedTests, by_length
from fedpurin.local.trainer import LocalTrainer, limits_of, loss_of
from fedpurin.local.used import UsedParameters
from fedpurin.seeding import seed_global, torch_generator
from fedpurin.space import finite_rows

Tensors = dict[str, Tensor]


class CohortExecutor(SerialExecutor):
    """Blocks of `size` consecutive ids, each fitted and evaluated as one computation."""

    def __init__(self, trainer: LocalTrainer, size: int) -> None:
        super().__init__(trainer)
        self.block = size
        self._training, self._validation = (
            _Step(trainer.module, "training_step"),
            _Step(trainer.module, "validation_step"),
        )
        self._tests = StackedTests(trainer.test, trainer.batch_size)
        self._used = UsedParameters(trainer, self._training)
        self.evaluates_together = True
        listeners = [trainer.module, *trainer.fabric._callbacks]
        self._listeners = [listener for listener in listeners if overridden(listener, "on_fit_end")]

    def fit(self, clients: Sequence[Client], plans: Sequence[Plan], round_number: int) -> list[FitResult]:
        results: dict[int, FitResult] = {}
        for number in range(max(len(plan) for plan in plans)):
            alike: dict[Any, list[tuple[Client, LocalFit]]] = {}
            for client, plan in zip(clients, plans, strict=True):
                done = results.get(client.id)
                if number < len(plan) and (done is None or done.diverged is None):
                    alike.setdefault(self._shape_of(plan[number]), []).append((client, plan[number]))
            for members in alike.values():
                for (client, _), result in zip(members, self.fit_stack(members, round_number), strict=True):
                    results[client.id] = results[client.id].then(result) if client.id in results else result
        return [results[client.id] for client in clients]

    def _shape_of(self, fit: LocalFit) -> tuple[Any, ...]:
        """What clients must have in common to be fitted together."""
        trained = tuple(fit.trains is None or fit.trains(segment) for segment in self.trainer.space.layout)
        values = tuple((name, None if isinstance(value, Tensor) else value) for name, value in fit.values.items())
        is_masked = fit.update_mask is not None, fit.bounds is not None, fit.lr, fit.keeps_gradient, fit.probes
        said = (fit.start, fit.keep, fit.epochs, fit.purpose, fit.scored, fit.measures_reach, is_masked)
        return (*said, trained, tuple(fit.models), values)

    def fit_stack(self, members: Sequence[tuple[Client, LocalFit]], round_number: int) -> list[FitResult]:
        """One fit of each of these clients, which `_shape_of` says are alike."""
        start, trainer = time.perf_counter(), self.trainer
        trainer.round_number = round_number
        first = members[0][1]
        if first.probes:  # a forward pass or two: not worth a second way of doing it
            return [trainer.fit(client, fit, round_number) for client, fit in members]
        for client, fit in members:
            if fit.prepare is not None:
                fit.prepare(client)
        epochs = first.epochs or trainer.local_epochs
        order = sorted(range(len(members)), key=lambda k: -trainer.num_batches(members[k][0]))
        clients = [members[k][0] for k in order]
        fits = [members[k][1] for k in order]
        num_batches = torch.tensor([trainer.num_batches(client) for client in clients])

        vectors = torch.stack([c.vector_named(first.start) for c in clients])
        buffers = {name: torch.stack([c.buffers[name] for c in clients]) for name in clients[0].buffers}
        context = _Contexts.of(fits, {name: buffer.clone() for name, buffer in buffers.items()} if first.models else {})
        held = vectors.clone() if first.update_mask is not None else vectors
        masks = [~fit.update_mask for fit in fits if fit.update_mask is not None]
        frozen = torch.stack(masks) if masks else None
        trained = [s for s in trainer.space.layout if first.trains is None or first.trains(s)]
        with trainer.counters.of_many():
            trained = self._used.of(clients[0], fits[0], trained, self._batch_of(clients[0]))
            stack = Stack(trainer.space, trainer.module, vectors, trained, first.lr)
        limits = limits_of(first, trainer.space.layout)

        seed_global(trainer.seed, f"{first.purpose}/dropout", round_number=round_number, client=clients[0].id)
        losses = torch.zeros(len(clients), device=vectors.device)
        notifies = first.scored and bool(self._listeners)
        shared = slice(trainer.space.shared.length) if notifies or first.keeps_gradient else slice(0)
        gradients = torch.zeros(len(clients), shared.stop, device=vectors.device)
        batches = [self._batches(client, epochs, first.purpose, round_number) for client in clients]
        steps = (num_batches * epochs).tolist()
        trainer.module.train()
        for step in range(steps[0]):
            stack.narrow(sum(total > step for total in steps))
            for rows, batch in by_length([next(batches[k]) for k in range(stack.active)]):
                with trainer.counters.of_many():
                    loss = self._gradients(stack, rows, batch, buffers, context)
                is_last = torch.tensor([step // int(num_batches[k]) == epochs - 1 for k in rows])
                losses[rows] += torch.where(is_last.to(loss.device), loss, 0.0)
            stays = sum(total > step + 1 for total in steps)  # the others have their last gradient
            gradients[stays : stack.active] = stack.gradients[stays : stack.active, shared]
            stack.step()
            for part, low, high in limits:
                stack.vectors[: stack.active, part].clamp_(low, high)
            if frozen is not None:
                active = slice(stack.active)
                stack.vectors[active] = torch.where(frozen[active], held[active], stack.vectors[active])
        means = (losses / num_batches.to(losses.device)).tolist()
        seconds = (time.perf_counter() - start) / len(clients)

        if first.measures_reach:
            for client, total in zip(clients, steps, strict=True):
                client.reach = stack.reach(total)
        finite = finite_rows(vectors)
        states = [{name: buffer[k] for name, buffer in buffers.items()} for k in range(len(clients))]
        diverged = [trainer.name_divergence(mean, is_finite) for mean, is_finite in zip(means, finite, strict=True)]
        if notifies:
            self._notify(clients, vectors, states, gradients, diverged)
        results: dict[int, FitResult] = {}
        for k, (client, fit) in enumerate(zip(clients, fits, strict=True)):
            if diverged[k] is None and fit.keeps_gradient:
                client.store("gradient", gradients[k])
            if diverged[k] is None:
                client.keep(fit, vectors[k], states[k])
                client.count(epochs, steps[k])
            results[client.id] = FitResult(means[k], seconds, steps[k], diverged[k])
        return [results[client.id] for client, _ in members]

    def _notify(
        self,
        clients: Sequence[Client],
        vectors: Tensor,
        states: Sequence[Tensors],
        gradients: Tensor,
        diverged: list[str | None],
    ) -> None:
        """Let callbacks see the fitted models, and enter into `diverged` what they object to.

        Together where all who listen can; else one after the other in the live module, as after serial fits.
        """
        trainer, kept = self.trainer, [k for k, why in enumerate(diverged) if why is None]
        if kept and all(accepts_stacks(listener) for listener in self._listeners):
            rows = slice(None) if len(kept) == len(clients) else kept
            for listener in self._listeners:
                objections = listener.fits_ended(trainer, [clients[k] for k in kept], vectors[rows], gradients[rows])
                for k, why in zip(kept, objections, strict=True):
                    diverged[k] = diverged[k] or why
            return
        for k in kept:
            trainer.show(clients[k], vectors[k], states[k], gradients[k])
            try:
                trainer.fabric.call("on_fit_end", trainer=trainer, pl_module=trainer.module)
            except Diverged as error:
                diverged[k] = str(error)

    def _batches(self, client: Client, epochs: int, purpose: str, round_number: int) -> Iterator[Any]:
        """The client's batches of all epochs, in the order that the serial executor draws."""
        trainer = self.trainer
        generator = torch_generator(trainer.seed, f"{purpose}/order", round_number=round_number, client=client.id)
        for _ in range(epochs):
            batches = trainer.train.batches(client.train_indices, trainer.batch_size, generator=generator)
            for _, batch in zip(range(trainer.num_batches(client)), batches, strict=False):
                yield batch

    def _batch_of(self, client: Client) -> Callable[[], Any]:
        """A batch of the client's, drawn from no stream and only if somebody wants it."""
        return lambda: next(iter(self.trainer.train.batches(client.train_indices, self.trainer.batch_size)))

    def _gradients(
        self, stack: Stack, rows: list[int], batch: Any, buffers: Tensors, context: _Contexts
    ) -> Float32[Tensor, " rows"]:
        """Losses of these rows' batch; their gradients go into the stack, their running statistics move on."""
        is_all = len(rows) == len(stack.vectors)

        def pick(tensor: Tensor) -> Tensor:
            return tensor if is_all else tensor[rows]

        vectors = pick(stack.vectors)
        state, seen = pytree.tree_map(pick, (buffers, context.rows))
        target = stack.gradients if is_all else torch.zeros_like(vectors)
        names, space, numbers = (
            frozenset(segment.name for segment in stack.trained),
            self.trainer.space,
            context.numbers,
        )

        def loss(trained: Tensors, frozen: Tensors, state: Tensors, seen: Any, batch: Any) -> Tensor:
            with set_loss_context(one_context(numbers, seen, space.views)):
                tensors = _prefixed({**trained, **frozen, **state})
                return loss_of(functional_call(self._training, tensors, (batch,)))

        def work(read: Any, written: Any) -> Tensor:
            (vectors, seen, batch), (target, state) = read, written
            views = space.row_views(vectors)
            trained = {name: view for name, view in views.items() if name in names}
            frozen = {name: view for name, view in views.items() if name not in names}
            function: Any = vmap(grad_and_value(loss), randomness="different")
            gradients: Tensors
            losses: Tensor
            gradients, losses = function(trained, frozen, state, seen, batch)
            into = space.row_views(target)
            for name, gradient in gradients.items():
                into[name].copy_(gradient)
            return losses.detach()

        losses = self._run((names, repr(numbers)), work, (vectors, seen, batch), (target, state))
        if not is_all:
            stack.gradients[rows] = target
            for name, buffer in buffers.items():
                buffer[rows] = state[name]
        return losses

    def _run(self, said: Hashable, work: Callable[[Any, Any], Tensor], read: Any, written: Any) -> Tensor:
        """Carry out a step's `work`: tensors that it reads, and tensors that it writes besides the losses it returns.

        `said` is what else it depends on.
        """
        return work(read, written)

    def evaluate(
        self, clients: Sequence[Client], vectors: Sequence[Float32[Tensor, " length"]]
    ) -> list[Mapping[str, float]]:
        if not self.evaluates_together or len(clients) < 2:
            return super().evaluate(clients, vectors)
        return self._evaluate_together(clients, vectors)

    def _evaluate_together(self, clients: Sequence[Client], vectors: Sequence[Tensor]) -> list[Mapping[str, float]]:
        trainer = self.trainer
        tensors = trainer.space.row_views(torch.stack(list(vectors)))
        tensors |= {name: torch.stack([c.buffers[name] for c in clients]) for name in clients[0].buffers}
        totals: list[dict[str, float]] = [{} for _ in clients]
        weights: list[dict[str, int]] = [{} for _ in clients]
        trainer.module.eval()
        for rows, batch in self._tests.of(clients):
            own = tensors if len(rows) == len(clients) else {name: t[rows] for name, t in tensors.items()}
            for name, (values, weight) in self._logged(own, batch).items():
                for row, value in zip(rows, values, strict=True):
                    totals[row][name] = totals[row].get(name, 0.0) + value
                    weights[row][name] = weights[row].get(name, 0) + weight
        return [
            trainer.evaluation.named({name: total / count[name] for name, total in own.items()})
            for own, count in zip(totals, weights, strict=True)
        ]

    def _logged(self, tensors: Tensors, batch: Any) -> dict[str, tuple[list[float], int]]:
        """What `validation_step` logs for these rows' batches, times the batches' length, and the weight of that."""
        length = length_of_rows(batch)
        times: dict[str, int] = {}

        def step(tensors: Tensors, batch: Any) -> Tensors:
            with self.trainer.log.collecting(length) as logged, self.trainer.counters.of_many():
                functional_call(self._validation, _prefixed(tensors), (batch,))
            if any(size != length for items in logged.values() for _, size, _ in items):
                raise NotBatchable("validation_step logs with a batch_size of its own")
            if any(reduction != "mean" for items in logged.values() for _, _, reduction in items):
                raise NotBatchable("validation_step logs with a reduce_fx of its own")
            times.update({name: len(items) for name, items in logged.items()})
            return {name: sum(torch.as_tensor(v).float() for v, _, _ in items) for name, items in logged.items()}  # type: ignore[misc]

        with torch.no_grad():
            logged = vmap(step, randomness="different")(tensors, batch)
        return {name: ((values * length).tolist(), times[name] * length) for name, values in logged.items()}


class NotBatchable(TypeError):
    """Something in a module that cannot run for many clients at once; the message names it."""


class _Step(nn.Module):
    """A step of a module in the place of its forward pass, for `functional_call`."""

    def __init__(self, module: nn.Module, step: str) -> None:
        super().__init__()
        self.module, self._step = module, step

    def forward(self, batch: Any) -> Any:
        return getattr(self.module, self._step)(batch, Unreadable(self._step))


class Unreadable(int):
    """The index of a batch where rows have different ones: it may be handed on, and reading it raises."""

    def __new__(cls, step: str) -> Unreadable:
        index = super().__new__(cls, 0)
        index.step = step
        return index

    step: str


def _refuse(self: Unreadable, *_: Any) -> Any:
    raise NotBatchable(f"{self.step} reads batch_idx")


for _operation in (
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__bool__", "__int__", "__index__", "__float__",
    "__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__mod__", "__rmod__", "__floordiv__",
    "__rfloordiv__", "__truediv__", "__rtruediv__", "__divmod__", "__and__", "__rand__", "__or__", "__xor__", "__pow__",
    "__rpow__", "__lshift__", "__rshift__", "__neg__", "__abs__", "__str__", "__repr__", "__format__",
):  # fmt: skip
    setattr(Unreadable, _operation, _refuse)


@dataclass(frozen=True)
class _Contexts:
    """The stacked loss contexts of a cohort. Plain numbers are common to all; tensors have a row for each client."""

    models: Mapping[str, Tensor]
    buffers: Tensors
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]

    @classmethod
    def of(cls, fits: Sequence[LocalFit], buffers: Tensors) -> _Contexts:
        first = fits[0]
        tensors = [name for name, value in first.values.items() if isinstance(value, Tensor)]
        return cls(
            {name: torch.stack([fit.models[name] for fit in fits]) for name in first.models},
            buffers,
            {name: torch.stack([torch.as_tensor(fit.values[name]) for fit in fits]) for name in tensors},
            {name: value for name, value in first.values.items() if name not in tensors},
        )

    @property
    def rows(self) -> dict[str, Any]:
        """Everything that has a row for each client."""
        return {"models": dict(self.models), "buffers": self.buffers, "tensors": dict(self.tensors)}


def one_context(numbers: Mapping[str, Any], rows: Mapping[str, Any], views: Callable[[Tensor], Tensors]) -> LossContext:
    """One client's context, from its row of everything."""
    models = {name: views(vector) | rows["buffers"] for name, vector in rows["models"].items()}
    return LossContext(models, {**numbers, **rows["tensors"]})


def _prefixed(tensors: Mapping[str, Tensor]) -> Tensors:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def length_of_rows(batch: Any) -> int:
    """Samples of one client in stacked batches [rows, batch, ...]."""
    return int(pytree.tree_leaves(batch)[0].shape[1])
