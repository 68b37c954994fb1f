"""Operators written out in simpler ones, where a mobile runtime lacks them or computes them wrongly.

One concern per module; every function is tested alone against autograd in float64. The tables say which
back end uses which.
"""

from pocketfl_export.decompositions.tables import executorch_table, onnx_table

__all__ = ["executorch_table", "onnx_table"]
