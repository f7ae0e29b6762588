"""The loop in which a network learns: Adam, cosine decay, a checkpoint an epoch, the best epoch by held-out rows.

Deterministic: the order of the rows, the choice of the held-out tenth and everything else random come from the seed,
so the same inputs give the same bytes on the same machine, whether the process was killed in between or not. Another
machine (another number of cores, another vector width, another version of XLA) may sum in another order and differ in
the last bits, which learning then amplifies: quality agrees, bytes need not.

A loss that is no longer finite ends the attempt: it begins anew with a tenth of the learning rate, twice at most.

A step that does not fit into memory is computed in parts, whose gradients are added by their rows: the same but for the last bits, as
losses are means over rows.

Sources: Kingma and Ba 2015 (Adam, arXiv:1412.6980); Loshchilov and Hutter 2017 (cosine decay, arXiv:1608.03983).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax  # type: ignore[import-untyped]

from edgemodel_api.errors import InputError
from edgemodel_api.job import Progress
from edgemodel_compressor.memory import give_back
from edgemodel_compressor.progress import Report

from .checkpoint import Checkpoint, number
from .data import Rows, Split
from .room import Room

Parameters = dict[str, Any]
Batch = dict[str, Any]
Mask = npt.NDArray[np.bool_]
#: (parameters, batch) → (loss, quality), means over the batch's rows.
Loss = Callable[[Parameters, Batch], tuple[Any, Any]]

#: (parameters, optimizer's state, masks, row numbers) → (parameters, optimizer's state, loss).
Update = Callable[[Parameters, Any, dict[str, Any], Rows], tuple[Parameters, Any, Any]]

#: What a step takes beside what XLA says that it needs, for instance to unfold a convolution: measured of nine networks, 1.0 to 1.5 times
#: that, and up to 90 MiB for what takes little.
STEP_FACTOR, STEP_BYTES = 1.5, 100 * 2**20
MOST_ATTEMPTS = 3
SLOWER = 0.1


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    Attributes:
        epochs: passes over the training rows.
        learning_rate: of Adam, at the first step; falls to 0 along half a cosine.
        batch_size: rows of one step; fewer where there are fewer, rounded down to whole `unit`s.
        seed: of the order of the rows.
        unit: rows that the model takes at a time.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    seed: int
    unit: int = 1


@dataclass(frozen=True)
class Masks:
    """What is pruned while learning.

    Attributes:
        at: (step, parameters) → by name, False where a number is held at zero. Names and shapes never change.
        every: steps after which it is asked again; it is also asked before each epoch.
        settled: the step from which the masks stay as they are: only epochs that begin after it can be the best.
    """

    at: Callable[[int, Mapping[str, npt.NDArray[Any]]], dict[str, Mask]]
    every: int
    settled: int


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        start: parameters to begin with.
        loss: pure, of JAX.
        batch: row numbers → what `loss` gets, of constant shapes for a constant number of rows.
        rows: what is learned and what is held out.
        shapes: number of rows → what `batch` gives, as `jax.ShapeDtypeStruct`s or arrays; None: ask `batch`.
        masks: None: nothing is pruned.
        start_counts: whether the start itself may be the best (a pruned or transferred network: yes).
    """

    start: Mapping[str, npt.NDArray[Any]]
    loss: Loss
    batch: Callable[[Rows], Batch]
    rows: Split
    shapes: Callable[[int], Batch] | None = None
    masks: Masks | None = None
    start_counts: bool = False


@dataclass(frozen=True)
class Learned:
    """The best epoch.

    Attributes:
        parameters: by name, float32.
        epoch: 1, 2, …; 0: the start.
        loss: on the held-out rows.
        quality: on the held-out rows.
        history: (loss while learning, held-out loss, held-out quality) of each epoch.
        notes: what a user should know.
    """

    parameters: dict[str, npt.NDArray[Any]]
    epoch: int
    loss: float
    quality: float
    history: tuple[tuple[float, float, float], ...]
    notes: tuple[str, ...]


@dataclass
class _State:
    """All that changes; what a checkpoint holds."""

    parameters: Parameters
    optimizer: Any
    best: Parameters
    epoch: int = 0
    attempt: int = 0
    best_epoch: int = -1
    best_loss: float = math.inf
    best_quality: float = math.nan
    history: list[tuple[float, float, float]] = field(default_factory=list)


def steps_per_epoch(settings: Settings, rows: int) -> tuple[int, int]:
    """(steps, rows of one step). What is left over after whole batches waits for the next epoch's order."""
    batch = min(settings.batch_size, rows)
    batch = max(batch // settings.unit, 1) * settings.unit
    return max(rows // batch, 1), batch


@dataclass(frozen=True)
class _Functions:
    """Of a step: as a whole, and as gradients of a part and what they change."""

    update: Any
    gradients: Any
    changed: Any


class Learning:
    """Learns, or goes on where an earlier process was killed."""

    def __init__(self, task: Task, settings: Settings, *, checkpoint: Checkpoint, report: Report, stage: str) -> None:
        """Nothing runs yet.

        Args:
            task: what is learned.
            settings: how long and how fast.
            checkpoint: its key must cover everything that decides the result.
            report: gets the loss and the held-out quality of each epoch.
            stage: for `report`.
        """
        self._task, self._settings, self._checkpoint = task, settings, checkpoint
        self._report, self._stage = report, stage
        self._steps, self._batch = steps_per_epoch(settings, len(task.rows.train))
        self._total = self._steps * settings.epochs
        self._loss = jax.jit(task.loss)
        self._notes: list[str] = []
        self._at_once = self._batch
        #: Of the latest attempt: `fit` compiles what the first one uses.
        self._compiled: tuple[int, _Functions] | None = None

    def fit(self, room: Room) -> None:
        """Make a step small enough, before the first one.

        Raises:
            InputError: no part of it fits (reason InsufficientMemory).
        """
        self._at_once = room.for_step(self._batch, self._needed, unit=self._settings.unit)
        if self._at_once < self._batch:
            self._notes.append(
                f"a step's {self._batch} rows were learned {self._at_once} at a time, so that they fit into memory: with more of it"
                " learning is quicker, and may come to another result, as the last bits differ"
            )

    def run(self) -> Learned:
        """Learn.

        Raises:
            InputError: the loss is not finite however slowly it learns, or the disk refuses.
        """
        state = self._resumed()
        while True:
            update = self._updating(state.attempt)
            while state.epoch < self._settings.epochs and self._epoch(state, update):
                self._save(state)
            if state.epoch >= self._settings.epochs:
                return self._learned(state)
            if state.attempt + 1 >= MOST_ATTEMPTS:
                return self._gave_up(state)
            state = self._fresh(state.attempt + 1, before=state)
            self._save(state)

    # One epoch.

    def _epoch(self, state: _State, update: Update) -> bool:
        """Whether it went well; `state` is then one epoch on."""
        task, first = self._task, state.epoch * self._steps
        rng = np.random.default_rng([self._settings.seed, 2, state.attempt, state.epoch])
        order = task.rows.train[rng.permutation(len(task.rows.train))]
        parameters, optimizer = state.parameters, state.optimizer
        masks: dict[str, Any] = {}
        losses = []
        for index in range(self._steps):
            step = first + index
            if task.masks is not None and (index == 0 or step % task.masks.every == 0):
                masks = self._masks(step, parameters)
            rows = order[index * self._batch : (index + 1) * self._batch]
            parameters, optimizer, loss = update(parameters, optimizer, masks, rows)
            losses.append(loss)
            self._report(Progress(stage=self._stage, done=step + 1, total=self._total, message=self._message(state)))
        learning = float(np.mean(np.asarray(losses, dtype=np.float64)))
        if task.masks is not None:
            # The last masks of all: what was asked for, exactly.
            parameters = _masked(parameters, self._masks(first + self._steps, parameters))
        held_out, quality = self._judged(parameters)
        if not (math.isfinite(learning) and math.isfinite(held_out)):
            return False
        state.parameters, state.optimizer, state.epoch = parameters, optimizer, state.epoch + 1
        state.history.append((learning, held_out, quality))
        if state.epoch * self._steps >= self._settled() and held_out < state.best_loss:
            state.best, state.best_epoch = parameters, state.epoch
            state.best_loss, state.best_quality = held_out, quality
        message = self._message(state)
        self._report(Progress(stage=self._stage, done=first + self._steps, total=self._total, message=message))
        return True

    def _updating(self, attempt: int) -> Update:
        functions, batch, at_once = self._functions(attempt), self._task.batch, self._at_once

        # Waited for: while JAX computes, it would take one batch after the other, and keep them all.
        def whole(parameters: Parameters, state: Any, masks: dict[str, Any], rows: Rows) -> tuple[Any, Any, Any]:
            found: tuple[Any, Any, Any] = _done(functions.update(parameters, state, masks, batch(rows)))
            return found

        def in_parts(parameters: Parameters, state: Any, masks: dict[str, Any], rows: Rows) -> tuple[Any, Any, Any]:
            total = None
            for begin in range(0, len(rows), at_once):
                some = rows[begin : begin + at_once]
                share, found = len(some) / len(rows), _done(functions.gradients(parameters, masks, batch(some)))
                found = jax.tree.map(lambda v, share=share: v * share, found)
                total = found if total is None else jax.tree.map(jnp.add, total, found)
            assert total is not None
            loss, gradients = total
            return *_done(functions.changed(parameters, state, masks, gradients)), loss

        return whole if at_once == self._batch else in_parts

    def _needed(self, rows: int) -> int:
        """Bytes of a step that is computed so many rows at a time, from what is compiled for it."""
        state, functions = self._template(), self._functions(0)
        masks = {} if self._task.masks is None else self._masks(0, state.parameters)
        shapes, parameters = self._task.shapes, state.parameters
        batch = self._task.batch(self._task.rows.train[:rows]) if shapes is None else shapes(rows)
        one = _bytes(parameters)
        # Those that the epoch began with, that a step begins with and that it makes, each with the optimizer's; and the best ones.
        # A batch is there twice: numpy's, and XLA's.
        held = 3 * (one + _bytes(state.optimizer)) + one + _bytes(masks) + 2 * _bytes(batch)
        if rows == self._batch:
            compiled = [functions.update.lower(parameters, state.optimizer, masks, batch)]
        else:
            compiled = [
                functions.gradients.lower(parameters, masks, batch),
                functions.changed.lower(parameters, state.optimizer, masks, parameters),
            ]
            held += 3 * one  # gradients: of a part, times its share, and all of them
        said = [lowered.compile().memory_analysis() for lowered in compiled]
        computing = max((int(s.temp_size_in_bytes) for s in said if s is not None), default=0)
        return int(STEP_FACTOR * computing) + held + STEP_BYTES

    def _functions(self, attempt: int) -> _Functions:
        if self._compiled is None or self._compiled[0] != attempt:
            self._compiled = (attempt, self._made(attempt))
        return self._compiled[1]

    def _made(self, attempt: int) -> _Functions:
        optimizer = self._optimizer(attempt)

        def gradients(parameters: Parameters, masks: dict[str, Any], batch: Batch) -> tuple[Any, Parameters]:
            (loss, _), found = jax.value_and_grad(self._task.loss, has_aux=True)(_masked(parameters, masks), batch)
            return loss, found

        def changed(parameters: Parameters, state: Any, masks: dict[str, Any], found: Parameters) -> tuple[Any, Any]:
            parameters = _masked(parameters, masks)
            changes, state = optimizer.update(found, state, parameters)
            return _masked(optax.apply_updates(parameters, changes), masks), state

        def update(parameters: Parameters, state: Any, masks: dict[str, Any], batch: Batch) -> tuple[Any, Any, Any]:
            loss, found = gradients(parameters, masks, batch)
            return *changed(parameters, state, masks, found), loss

        return _Functions(jax.jit(update), jax.jit(gradients), jax.jit(changed))

    def _optimizer(self, attempt: int) -> Any:
        rate = self._settings.learning_rate * SLOWER**attempt
        return optax.adam(optax.cosine_decay_schedule(rate, max(self._total, 1)))

    def _masks(self, step: int, parameters: Parameters) -> dict[str, Any]:
        assert self._task.masks is not None
        found = self._task.masks.at(step, {name: np.asarray(v) for name, v in parameters.items()})
        return {name: jnp.asarray(mask) for name, mask in found.items()}

    def _settled(self) -> int:
        return 0 if self._task.masks is None else min(self._task.masks.settled, self._total)

    def _judged(self, parameters: Parameters) -> tuple[float, float]:
        """Means of loss and quality over the held-out rows."""
        rows = self._task.rows.held_out
        loss = quality = 0.0
        for begin in range(0, len(rows), self._at_once):
            some = rows[begin : begin + self._at_once]
            one, other = self._loss(parameters, self._task.batch(some))
            loss += float(one) * len(some)
            quality += float(other) * len(some)
        give_back()
        return loss / len(rows), quality / len(rows)

    # Beginning, going on, ending.

    def _fresh(self, attempt: int, before: _State | None = None) -> _State:
        parameters = {name: jnp.asarray(value, jnp.float32) for name, value in sorted(self._task.start.items())}
        state = _State(parameters, self._optimizer(attempt).init(parameters), parameters, attempt=attempt)
        if before is not None:
            # An epoch that went well before the loss ran away may still be the best.
            state.best, state.best_epoch = before.best, before.best_epoch
            state.best_loss, state.best_quality = before.best_loss, before.best_quality
        elif self._task.start_counts and self._settled() == 0:
            if self._task.masks is not None:
                state.best = _masked(parameters, self._masks(0, parameters))
            loss, quality = self._judged(state.best)
            if math.isfinite(loss):
                state.best_epoch, state.best_loss, state.best_quality = 0, loss, quality
        return state

    def _resumed(self) -> _State:
        template = self._template()
        arrays, shape = _leaves(template)
        found = self._checkpoint.load(arrays)
        if isinstance(found, str):
            self._notes.append(found)
        elif found is not None:
            try:
                return self._restored(template, shape, *found)
            except ValueError as error:
                self._notes.append(
                    f"the checkpoint {self._checkpoint.path.name} is ignored and learning begins anew: {error}"
                )
        return self._fresh(0)

    def _template(self) -> _State:
        parameters = {name: jnp.asarray(value, jnp.float32) for name, value in sorted(self._task.start.items())}
        return _State(parameters, self._optimizer(0).init(parameters), parameters)

    def _restored(self, state: _State, shape: Any, header: dict[str, Any], arrays: list[Any]) -> _State:
        epochs = self._settings.epochs
        state.epoch = int(number(header, "epoch", least=0, most=epochs))
        state.attempt = int(number(header, "attempt", least=0, most=MOST_ATTEMPTS - 1))
        state.best_epoch = int(number(header, "bestEpoch", least=-1, most=epochs))
        if state.best_epoch >= 0:
            state.best_loss = number(header, "bestLoss")
            state.best_quality = number(header, "bestQuality")
        history = header.get("history")
        if not isinstance(history, list) or len(history) != state.epoch:
            raise ValueError("its history does not fit its epoch")
        for line in history:
            if not isinstance(line, list) or len(line) != 3:
                raise ValueError("its history has another form")
            named = dict(zip(("loss", "held", "quality"), line, strict=True))
            state.history.append((number(named, "loss"), number(named, "held"), number(named, "quality")))
        state.parameters, state.optimizer, state.best = jax.tree.unflatten(shape, [jnp.asarray(a) for a in arrays])
        return state

    def _save(self, state: _State) -> None:
        header: dict[str, Any] = {
            "epoch": state.epoch,
            "attempt": state.attempt,
            "bestEpoch": state.best_epoch,
            "history": state.history,
        }
        if state.best_epoch >= 0:
            header |= {"bestLoss": state.best_loss, "bestQuality": state.best_quality}
        self._checkpoint.save(header, _leaves(state)[0])

    def _message(self, state: _State) -> str:
        text = f"epoch {min(state.epoch + 1, self._settings.epochs)}/{self._settings.epochs}"
        if state.history:
            learning, held_out, quality = state.history[-1]
            text += (
                f", after epoch {state.epoch}: loss {learning:.4f}, held-out loss {held_out:.4f}, quality {quality:.4f}"
            )
        return text

    def _learned(self, state: _State) -> Learned:
        if state.attempt:
            rate = self._settings.learning_rate * SLOWER**state.attempt
            self._notes.append(
                f"the loss did not stay finite with learningRate {self._settings.learning_rate:g}: it was learned with"
                f" {rate:g} instead"
            )
        if state.best_epoch < 0:
            return self._gave_up(state)
        parameters = {name: np.asarray(value) for name, value in state.best.items()}
        return Learned(
            parameters, state.best_epoch, state.best_loss, state.best_quality, tuple(state.history), tuple(self._notes)
        )

    def _gave_up(self, state: _State) -> Learned:
        text = (
            f"the loss did not stay finite, with learningRate {self._settings.learning_rate:g} and with less, down to"
            f" {self._settings.learning_rate * SLOWER ** (MOST_ATTEMPTS - 1):g}"
        )
        if state.best_epoch < 0:
            raise InputError(f"{text}: give a smaller learningRate, and check the scaling of the training data")
        self._notes.append(f"{text}: the best until then is kept (epoch {state.best_epoch})")
        parameters = {name: np.asarray(value) for name, value in state.best.items()}
        return Learned(
            parameters, state.best_epoch, state.best_loss, state.best_quality, tuple(state.history), tuple(self._notes)
        )


def _masked(parameters: Parameters, masks: Mapping[str, Any]) -> Parameters:
    return {name: jnp.where(masks[name], v, 0.0) if name in masks else v for name, v in parameters.items()}


def _done(found: Any) -> Any:
    return jax.block_until_ready(found)  # type: ignore[no-untyped-call]


def _bytes(tree: Any) -> int:
    """Of arrays, or of what says their shapes and types."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _leaves(state: _State) -> tuple[list[npt.NDArray[Any]], Any]:
    """What of a state is arrays, in a fixed order, and how to put them together again."""
    leaves, shape = jax.tree.flatten((state.parameters, state.optimizer, state.best))
    return [np.asarray(leaf) for leaf in leaves], shape
