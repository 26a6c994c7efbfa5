"""The ruler: several models, one target, one interleaved run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sartor.core.errors import TargetError
from sartor.core.measurement import Measurement
from sartor.core.target import Target
from sartor.measure.flops import count_flops, count_params
from sartor.measure.latency import latency
from sartor.measure.memory import peak_memory_bytes
from sartor.measure.size import module_bytes
from sartor.runtime import OnnxModule, Prepared, check_target, prepare, target_threads
from sartor.runtime.quiet import quiet

__all__ = ["measure"]


def measure(
    models: Mapping[str, nn.Module],
    target: Target,
    example: Tensor,
    *,
    folder: Path | None = None,
    floats: Mapping[str, nn.Module] | None = None,
    min_seconds: float = 0.2,
    rounds: int = 15,
    chunk_bytes: int = 2_000_000_000,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Measurement]:
    """Measure what models cost in ``target``; the models are left as they are.

    All models are timed in turn in one run, as long as their weights fit into ``chunk_bytes``
    together; else in several such runs.

    Args:
        models: float modules, or for ONNX Runtime also :class:`~sartor.runtime.OnnxModule`.
        target: where they run; latency and memory are those of a batch of ``target.batch``.
        example: inputs (B >= 1, ...); the first is repeated to fill the batch.
        folder: keeps each deployed file in a sub-folder of the model's name; ``None``: none is
            kept.
        floats: the float module, on the CPU, on which operations and parameters are counted, for
            each model that is an ``OnnxModule``.
        min_seconds: shortest time spent on each model's latency.
        rounds: at least this many timings of each model, 2 or more.
        chunk_bytes: bound on the weights held at a time; a larger model is measured alone.
        on_progress: is told each model's name when its measurement begins.

    Returns:
        One measurement a model, in the order given.

    Raises:
        TargetError: the target is not available, cannot run a model, or a float module is missing.
        ExportError: a model cannot be written as ONNX.

    Example:
        >>> target = Target.parse("cpu/eager")
        >>> measure({"tiny": nn.Linear(4, 2)}, target, torch.zeros(1, 4))["tiny"].params
        10
    """
    check_target(target)
    counted = {name: _counted(name, model, floats or {}) for name, model in models.items()}
    done: dict[str, Measurement] = {}
    for names in _chunks(models, chunk_bytes):
        with ExitStack() as stack:
            home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(target_threads(target))
            inputs = _batch(example, target)
            prepared: dict[str, Prepared] = {}
            for name in names:
                if on_progress:
                    on_progress(name)
                prepared[name] = prepare(models[name], target, example, home / name)
            done |= _measured(prepared, counted, target, inputs, min_seconds, rounds)
    return done


def _measured(
    prepared: Mapping[str, Prepared],
    counted: Mapping[str, nn.Module],
    target: Target,
    inputs: Tensor,
    min_seconds: float,
    rounds: int,
) -> dict[str, Measurement]:
    """Time prepared models in turn, then read the other meters of each."""
    calls = {name: partial(one.call, inputs) for name, one in prepared.items()}
    with quiet("torch.utils", "torch._inductor"):
        for call in calls.values():
            call()  # compiles, loads the file, or fails, apart from what is timed
    synchronize = torch.cuda.synchronize if target.device == "cuda" else None
    times = latency(calls, min_seconds=min_seconds, rounds=rounds, synchronize=synchronize)
    result = {}
    for name, time in times.items():
        model = counted[name]
        resident = module_bytes(model) + inputs.nbytes
        result[name] = Measurement(
            latency_ms=time.median_ms,
            latency_iqr_ms=time.iqr_ms,
            warmup=time.warmup,
            repeats=time.repeats,
            flops=count_flops(model, inputs.to(_device(model))),
            params=count_params(model),
            size_bytes=prepared[name].size_bytes,
            peak_memory_bytes=peak_memory_bytes(calls[name], target, resident_bytes=resident),
        )
    return result


def _counted(name: str, model: nn.Module, floats: Mapping[str, nn.Module]) -> nn.Module:
    """Return the module on which operations and parameters are counted."""
    if isinstance(model, OnnxModule) and name not in floats:
        raise TargetError(
            f"The operations of the ONNX file {name!r} cannot be counted; give the float module "
            "that it came from in floats."
        )
    return floats.get(name, model)


def _chunks(models: Mapping[str, nn.Module], limit: int) -> Iterator[list[str]]:
    """Group names, in order, so that the weights of a group stay within ``limit`` bytes."""
    group: list[str] = []
    filled = 0
    for name, model in models.items():
        size = model.path.stat().st_size if isinstance(model, OnnxModule) else module_bytes(model)
        if group and filled + size > limit:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += size
    if group:
        yield group


def _batch(example: Tensor, target: Target) -> Tensor:
    return example[:1].repeat(target.batch, *[1] * (example.ndim - 1)).to(target.device)


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return first.device if first is not None else torch.device("cpu")
