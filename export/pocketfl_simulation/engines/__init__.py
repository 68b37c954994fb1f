"""Ways to train many devices at once; each takes packed steps and returns updates."""

from pocketfl_simulation.engines.compiled import CompiledEngine
from pocketfl_simulation.engines.dense import DenseEngine
from pocketfl_simulation.engines.eager import EagerEngine
from pocketfl_simulation.engines.interface import ENGINES, Engine
from pocketfl_simulation.engines.onnx import OnnxEngine
from pocketfl_simulation.engines.torch import TorchEngine

__all__ = [
    "ENGINES",
    "CompiledEngine",
    "DenseEngine",
    "EagerEngine",
    "Engine",
    "OnnxEngine",
    "TorchEngine",
]
