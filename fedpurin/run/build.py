"""From a configuration to the parts of a run: data, partition, module, method, clients, exchange, loop.

Owns: the order in which parts are made, what is seeded on the way, and the checks that need two parts at once (does
the model fit the images, does the method get its masks). Classes from outside the engine come in by `_target_`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch
from lightning import LightningModule
from pydantic import ValidationError
from torch import nn
from torch.utils.data import Dataset

from fedpurin.config import Config, ConfigError, explain_invalid
from fedpurin.data import LabelledData, Pool, Samples, from_datasets, load, owned, partition
from fedpurin.exchange import Exchange, Ledger, Processes, give_up_ranks
from fedpurin.exchange.network import draw_links
from fedpurin.federation import Federation
from fedpurin.local.choice import choose_executor
from fedpurin.local.store import make_store
from fedpurin.local.store import remark as store_remark
from fedpurin.local.trainer import LocalTrainer
from fedpurin.methods import Method
from fedpurin.run.checkpointer import Checkpointer
from fedpurin.run.data_digest import describe_data
from fedpurin.run.export import describe_use
from fedpurin.run.first_weights import PrivateStart, check_can_be_drawn, drawn_anew, private_segments
from fedpurin.run.launch import make_fabric
from fedpurin.run.listeners import check_callbacks, remarks
from fedpurin.run.lock import RunLock, is_first_process
from fedpurin.run.module import check_fit, check_optimizers, check_single_samples, client_module, complete
from fedpurin.run.record import Recorder, RunFolder
from fedpurin.run.resume import check_folder
from fedpurin.seeding import seed_global
from fedpurin.space import ParameterSpace, Roles

log = logging.getLogger(__name__)


def build(
    config: Config,
    run_dir: Path,
    *,
    module: nn.Module | None = None,
    train: Dataset[Any] | None = None,
    test: Dataset[Any] | None = None,
    clients: tuple[Sequence[Any], Sequence[Any]] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Federation:
    """Make every part of one run on this rank. The run folder is locked until the run ends, or this fails.

    Args:
        module: the client's LightningModule, or a plain network; None builds `config.model`. Every client starts from
            the weights of a copy; the object itself stays as it is.
        train, test: data sets of (x, y) pairs or other samples; None loads `config.data`.
        clients: whose each training and test sample is, for partition=natural.
        collate: makes a batch of a list of their samples, where those differ in shape.
        callbacks: further callbacks after the configured ones.

    Raises:
        ConfigError: the parts do not fit each other, or one of them is not there.
    """
    lock = RunLock(run_dir)
    with ExitStack() as undo:
        undo.callback(lock.release)
        if is_first_process():
            lock.acquire()
            check_folder(config, run_dir)
        try:
            federation = _assemble(config, run_dir, lock, module, train, test, clients, collate, callbacks)
        except ConfigError:
            raise  # on every rank alike
        except BaseException:
            give_up_ranks()
            raise
        undo.pop_all()
    return federation


def _assemble(
    config: Config,
    run_dir: Path,
    lock: RunLock,
    module: nn.Module | None,
    train: Dataset[Any] | None,
    test: Dataset[Any] | None,
    owners: tuple[Sequence[Any], Sequence[Any]] | None,
    collate: Callable[[list[Any]], Any] | None,
    callbacks: Sequence[Any],
) -> Federation:
    method = make_method(config.method)
    listeners = [make(entry, "callbacks") for entry in config.callbacks.values() if entry] + list(callbacks)
    listeners += [make(entry, "logger") for entry in config.logger.values() if entry]
    check_callbacks(listeners)
    providers = [listener for listener in listeners if getattr(listener, "provides_masks", False)]
    if not method.needs_masks:  # a mask provider may stay configured; such a method has nothing to solve for
        listeners = [listener for listener in listeners if listener not in providers]
    elif not providers:
        raise ConfigError(
            f"method={type(method).__name__} needs masks and no callback provides them: "
            "keep callbacks.mask_selection, or pass callbacks.MaskSelection()"
        )
    folder = RunFolder(run_dir)
    checkpointer, recorder = Checkpointer(config.checkpoint, lock, folder), Recorder(folder)
    fabric = make_fabric(
        config.trainer,
        callbacks=[checkpointer, recorder, *listeners],
        timeout_seconds=config.exchange.timeout_seconds,
    )
    processes = Processes(fabric.device, config.exchange.timeout_seconds)
    if (train is None) != (test is None):
        given, lacking = ("train", "test") if test is None else ("test", "train")
        raise ConfigError(f"simulate was given {given} and no {lacking}; pass both data sets, or none for `data`'s")
    with fabric.rank_zero_first(local=True):  # one process of a node downloads or unpacks, the others find it done
        if train is None or test is None:
            data = load(config.data, config.seed)
        else:
            data = from_datasets(train, test, collate=collate, label=config.data.label)
    data = data if owners is None else owned(data, owners)
    parts = partition(config.partition, data, config.seed)
    if method.needs_classes:
        _check_classes(method, data)
    checkpointer.data = describe_data(data, parts)
    recorder.partition = (data.strata, parts.class_counts, parts.test_class_counts)

    shape = {
        "num_classes": data.num_outputs,
        "in_channels": data.in_channels,
        "image_size": data.image_size,
        "vocabulary": data.vocabulary,
        "padding": data.padding,
    }
    roles, users = Roles(config.roles.head, config.roles.norm), module
    before: list[tuple[type, set[str]]] = []  # the module's class and keys before the method's changes

    def new_module(*, draws_anew: bool = True) -> LightningModule:
        made = make_module(config.model, shape) if users is None else client_module(users, of_user=True)
        complete(made, data.train)
        if users is not None and draws_anew:
            drawn_anew(made)
        before[:] = [(type(made), set(made.state_dict()))]
        return method.adapt(made, roles)

    seed_global(config.seed, "weights")
    try:
        module = new_module(draws_anew=False)
        space = ParameterSpace(module, method.shares, roles)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None
    private = private_segments(space, method) if config.trainer.init == "per_client" else ()
    if users is not None:
        check_can_be_drawn(module, private)
    check_fit(module, data.train, data.test)
    arguments = _with_shape(config.model, shape) if users is None else {}
    checkpointer.use = describe_use(module, *before[0], arguments, data)
    sizes = ([len(indices) for indices in parts.train], [len(indices) for indices in parts.test])
    check_single_samples(module, data.train, data.test, sizes, config.trainer.batch_size)
    method.check(space, config.trainer.clients_per_round or config.partition.num_clients)
    if config.trainer.channels_last:
        data = replace(data, train=_channels_last(data.train), test=_channels_last(data.test))

    trainer = LocalTrainer(
        fabric,
        module,
        space,
        train=data.train.to(fabric.device),
        test=data.test.to(fabric.device),
        seed=config.seed,
        local_epochs=config.trainer.local_epochs,
        batch_size=config.trainer.batch_size,
        monitor=config.trainer.monitor,
    )
    check_optimizers(module)
    executor, why = choose_executor(config, trainer, method.plan, listeners)
    if fabric.device.type == "cuda":  # ranks whose memory differs still form the same cohorts
        executor.block = min(processes.gather_objects(executor.block))
    # Three evaluations cost a forward pass each, a step about three. Known beforehand, so that no client ever moves.
    epochs = config.trainer.local_epochs
    costs = [epochs * len(train) + len(test) for train, test in zip(parts.train, parts.test, strict=True)]
    processes.place(costs, executor.block)
    if processes.rank == 0:
        log.info("local fits: %s", why)
        for line in remarks(module, listeners):
            log.warning(line)
        if config.trainer.init == "per_client" and not private:
            log.warning(
                "trainer.init=per_client has no effect: with method=%s nothing is private", type(method).__name__
            )
        if (about_store := store_remark(config.clients, fabric.device)) is not None:
            log.warning(about_store)
    own = [
        client_id for client_id in range(config.partition.num_clients) if processes.owner(client_id) == processes.rank
    ]
    store = make_store(
        config.clients,
        fabric.device,
        num_clients=-(-config.partition.num_clients // config.trainer.num_nodes),
        num_bytes=trainer.vector.nbytes,
    )
    clients = {}
    start = PrivateStart(new_module, private, config.seed)
    for client_id in own:
        client = trainer.new_client(
            client_id,
            torch.as_tensor(parts.train[client_id]),
            torch.as_tensor(parts.test[client_id]),
            store.first(client_id, trainer.vector),
        )
        start.give(client)
        store.put_back([client])
        clients[client_id] = client
    return Federation(
        config=config,
        method=method,
        trainer=trainer,
        executor=executor,
        masks=providers[0] if method.needs_masks else None,
        store=store,
        exchange=Exchange(config.exchange, space.shared, processes, Ledger()),
        processes=processes,
        run_dir=run_dir,
        clients=clients,
        num_train={client_id: len(indices) for client_id, indices in enumerate(parts.train)},
        links=draw_links(config.network, config.partition.num_clients, config.seed) if config.network else (),
    )


def _channels_last(samples: Samples) -> Samples:
    if not isinstance(samples, Pool) or samples.inputs.dim() != 4:
        shape = list(samples.sample_shape)
        raise ConfigError(f"trainer.channels_last=true needs images [C, H, W] with one target; samples are {shape}")
    return replace(samples, channels_last=True)


def _check_classes(method: Method, data: LabelledData) -> None:
    name = type(method).__name__
    if not isinstance(data.train, Pool):
        raise ConfigError(f"method={name} reads batches (x, y), and the samples of data={data.name} are no such pairs")
    if not data.class_names:
        raise ConfigError(f"method={name} needs classes, and the targets of these data are no class numbers")


def make_method(options: Mapping[str, Any]) -> Method:
    """The method that `method._target_` names, with its options checked by its own class."""
    method = make(options, "method")
    if not isinstance(method, Method):
        raise ConfigError(f"method._target_={options['_target_']} is not a fedpurin.methods.Method")
    return method


def make_module(options: Mapping[str, Any], shape: Mapping[str, int | None]) -> LightningModule:
    """The LightningModule that `model._target_` names; a plain network becomes the backbone of a classifier.

    `shape` (num_classes, in_channels, image_size, vocabulary, padding) fills the parameters of these names that the
    options leave open.
    """
    return client_module(make(_with_shape(options, shape), "model"), of_user=False)


def make(options: Mapping[str, Any], group: str) -> Any:
    """Instantiate a `_target_`; whatever it objects to is reported as a mistake in that group's options."""
    if "_target_" not in options:
        raise ConfigError(f"{group}: the options name no _target_ (choose a {group} of configs/, or set one)")
    try:
        return hydra.utils.instantiate(dict(options))
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error
        raise ConfigError(f"{group}: {_one_line(cause)}") from error


def _with_shape(options: Mapping[str, Any], shape: Mapping[str, int | None]) -> dict[str, Any]:
    filled = {key: _with_shape(value, shape) if isinstance(value, Mapping) else value for key, value in options.items()}
    if "_target_" in filled:
        try:
            accepted = inspect.signature(hydra.utils.get_object(filled["_target_"])).parameters
        except (ImportError, AttributeError, ValueError, hydra.errors.HydraException) as error:
            raise ConfigError(f"model._target_={filled['_target_']} cannot be found: {_one_line(error)}") from None
        open_ = {name: value for name, value in shape.items() if name in accepted and value is not None}
        filled = open_ | filled
    return filled


def _one_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return explain_invalid(error)
    text = " ".join(str(error).split())
    return text if len(text) < 300 else text[:297] + "…"
