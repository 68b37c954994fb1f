"""The back end for ExecuTorch: training, evaluation and inference as plain programs.

They need no training extension of ExecuTorch: parameters go in and out like any tensor, so one program
serves every round. Whatever it can, XNNPACK computes.
"""

from pocketfl_export.executorch.artefacts import count_operators, export_graphs, run_graph
from pocketfl_export.executorch.decompositions import decomposition_table
from pocketfl_export.executorch.lowering import lower

__all__ = ["count_operators", "decomposition_table", "export_graphs", "lower", "run_graph"]
