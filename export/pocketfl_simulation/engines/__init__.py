"""Ways to train many devices at once; each takes packed steps and returns updates."""

from pocketfl_simulation.engines.interface import Engine
from pocketfl_simulation.engines.onnx import OnnxEngine
from pocketfl_simulation.engines.torch import TorchEngine

__all__ = ["Engine", "OnnxEngine", "TorchEngine"]
