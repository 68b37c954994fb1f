"""What training a plan costs on this device, measured without torch: for an app's own screen."""

from pocketfl.benchmark.device import DeviceBenchmark, run_device_benchmark
from pocketfl.benchmark.verdict import BudgetVerdict

__all__ = ["BudgetVerdict", "DeviceBenchmark", "run_device_benchmark"]
