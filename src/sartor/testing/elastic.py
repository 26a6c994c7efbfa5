"""What every elastic module promises."""

from __future__ import annotations

import itertools
import statistics
import time
import tracemalloc
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sartor.core import Elastic

__all__ = ["ElasticContract"]

#: longest median time of ``set_config``, in microseconds
SWITCH_LIMIT_US = 100.0
#: Python objects that may live during a call of ``set_config``: a few small ones, in bytes
SWITCH_LIMIT_BYTES = 2048


class ElasticContract(ABC):
    """Inherit it in a class called ``Test...`` and say how to make the module and its inputs.

    Example:
        >>> class TestMine(ElasticContract):
        ...     def elastic(self):
        ...         return MyElastic()
        ...     def inputs(self):
        ...         return torch.randn(2, 3)
    """

    @abstractmethod
    def elastic(self) -> Elastic:
        """Make the module, in eval mode; the same at every call."""

    @abstractmethod
    def inputs(self) -> Tensor:
        """Inputs (B, ...) that it takes; the same at every call."""

    def references(self) -> Mapping[int, nn.Module]:
        """Configurations that must equal a module bit for bit: index -> module in eval mode."""
        return {}

    def checked(self, elastic: Elastic) -> list[int]:
        """Configurations to run: the first, the last and up to six between."""
        count = len(elastic.configs)
        return sorted({round(i * (count - 1) / 7) for i in range(8)})

    def test_configurations_are_stable_and_unique(self) -> None:
        """Two makings have the same configurations, each of them once."""
        first, second = self.elastic().configs, self.elastic().configs
        assert len(first) > 1, "an elastic module needs at least two configurations"
        assert list(first) == list(second), "configs must be the same at every making"
        assert all(a != b for a, b in itertools.combinations(first, 2)), "configs repeat"

    def test_references_bit_for_bit(self) -> None:
        """Configurations that stand for a module give just its outputs."""
        elastic, inputs = self.elastic(), self.inputs()
        with torch.no_grad():
            for index, module in self.references().items():
                elastic.set_config(index)
                assert torch.equal(elastic(inputs), module(inputs)), f"config {index} differs"

    def test_set_config_is_instant(self) -> None:
        """The median call takes less than :data:`SWITCH_LIMIT_US`."""
        elastic = self.elastic()
        times = []
        for index in itertools.islice(itertools.cycle(range(len(elastic.configs))), 1000):
            started = time.perf_counter()
            elastic.set_config(index)
            times.append(time.perf_counter() - started)
        median_us = statistics.median(times) * 1e6
        assert median_us < SWITCH_LIMIT_US, f"set_config takes {median_us:.0f} microseconds"

    def test_set_config_allocates_nothing(self) -> None:
        """No tensor is made, no torch operation runs, and no memory is kept."""
        elastic = self.elastic()
        indices = list(range(len(elastic.configs)))
        pointers = [p.data_ptr() for p in elastic.parameters()]
        operations = _Operations()
        with operations:
            for index in indices:
                elastic.set_config(index)
        assert operations.names == [], f"set_config runs {operations.names[:3]}"
        tracemalloc.start()
        try:
            for index in indices:
                elastic.set_config(index)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for index in indices:
                elastic.set_config(index)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < SWITCH_LIMIT_BYTES, f"set_config keeps {after - before} bytes"
        assert peak - before < SWITCH_LIMIT_BYTES, f"set_config needs {peak - before} bytes"
        assert pointers == [p.data_ptr() for p in elastic.parameters()], "weights moved"

    def test_set_config_refuses_what_is_not_there(self) -> None:
        """An index out of range is an error, and the configuration stays."""
        elastic, inputs = self.elastic(), self.inputs()
        elastic.set_config(1)
        with torch.no_grad():
            wanted = elastic(inputs)
            for index in (-1, len(elastic.configs)):
                try:
                    elastic.set_config(index)
                except (ValueError, IndexError):
                    assert torch.equal(elastic(inputs), wanted), (
                        "a refused index changed the config"
                    )
                else:
                    raise AssertionError(f"set_config({index}) is accepted")

    def test_extract_has_equal_outputs_and_weights_of_its_own(self) -> None:
        """A configuration cut out equals the elastic module, shares nothing and changes nothing."""
        elastic, inputs = self.elastic(), self.inputs()
        owned = _storages(elastic)
        with torch.no_grad():
            for index in self.checked(elastic):
                elastic.set_config(index)
                wanted = elastic(inputs)
                other = (index + 1) % len(elastic.configs)
                elastic.set_config(other)
                chosen = elastic(inputs)
                plain = elastic.extract(index).eval()
                assert not isinstance(plain, Elastic), "extract returns an elastic module"
                assert torch.equal(plain(inputs), wanted), f"extract({index}) differs"
                assert not _storages(plain) & owned, f"extract({index}) shares storage"
                assert torch.equal(elastic(inputs), chosen), "extract changed the configuration"

    def test_forward_runs_only_what_is_used(self) -> None:
        """The innermost modules that run are those of the extracted module, in its order."""
        elastic, inputs = self.elastic(), self.inputs()
        for index in self.checked(elastic):
            elastic.set_config(index)
            plain = elastic.extract(index).eval()
            assert _run(elastic, inputs) == _run(plain, inputs), f"config {index} runs more"


class _Operations(TorchDispatchMode):
    """Keeps the names of the torch operations that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def _storages(module: nn.Module) -> set[int]:
    tensors = itertools.chain(module.parameters(), module.buffers())
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def _run(module: nn.Module, inputs: Tensor) -> list[tuple[str, tuple[torch.Size, ...]]]:
    """Type and parameter shapes of each innermost module with parameters that runs, in order."""
    ran: list[tuple[str, tuple[torch.Size, ...]]] = []

    def note(inner: nn.Module, _inputs: Any, _output: Any) -> None:
        ran.append((type(inner).__name__, tuple(p.shape for p in inner.parameters())))

    inner = [m for m in module.modules() if not list(m.children()) and list(m.parameters())]
    hooks = [m.register_forward_hook(note) for m in inner]
    try:
        with torch.no_grad():
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return ran
