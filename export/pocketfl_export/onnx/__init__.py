"""The back end for ONNX Runtime: ordinary inference graphs that happen to train.

``torch.onnx`` takes 5 to 60 seconds per model, folds filled tensors into megabytes of initialisers and
writes stack traces into the file; the small emitter here takes a fraction of a second. ``torch.onnx``
serves as its oracle in the tests.
"""

from pocketfl_export.onnx.artefacts import (
    count_operators,
    decomposition_table,
    export_graphs,
    run_graph,
)
from pocketfl_export.onnx.emitter import IR_VERSION, OPSET, emit

__all__ = [
    "IR_VERSION",
    "OPSET",
    "count_operators",
    "decomposition_table",
    "emit",
    "export_graphs",
    "run_graph",
]
