"""The ruler: latency in the runtime that serves, operations, parameters, bytes and peak memory."""

from sartor.measure.environment import cpu_flags, environment
from sartor.measure.flops import count_flops, count_params
from sartor.measure.latency import latency
from sartor.measure.memory import peak_memory_bytes
from sartor.measure.models import measure
from sartor.measure.size import file_bytes, module_bytes

__all__ = [
    "count_flops",
    "count_params",
    "cpu_flags",
    "environment",
    "file_bytes",
    "latency",
    "measure",
    "module_bytes",
    "peak_memory_bytes",
]
