"""What runs a model: eager torch, compiled torch, ONNX Runtime; and writing ONNX files."""

from sartor.runtime.onnx import OnnxModule, to_onnx
from sartor.runtime.prepare import Prepared, check_target, prepare, target_threads

__all__ = ["OnnxModule", "Prepared", "check_target", "prepare", "target_threads", "to_onnx"]
