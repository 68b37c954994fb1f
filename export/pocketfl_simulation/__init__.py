"""A fleet in one process: the plan's own rounds on simulated devices, for whoever tunes the plan.

What decides a result is production's: the exported training step, the feature pipeline, balancing,
clipping and rounding, the accountant and the server optimizer are imported, not written again, and
noise has the trusted tier's distribution (:mod:`pocketfl_simulation.noise`). Left out are the tiers
between them: stores, sealing, HTTP. Devices are numbers and their coins are seeded, which no real
device's are, so that two simulations differ in what is compared and in nothing else.
"""

from pocketfl_simulation.data import FactoryData, FleetData, PackedData
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.rounds import SimulatedRound, Simulation, SimulationSettings
from pocketfl_simulation.tasks import SimulationTask, load_task

__all__ = [
    "FactoryData",
    "FleetData",
    "PackedData",
    "SimulatedRound",
    "Simulation",
    "SimulationError",
    "SimulationSettings",
    "SimulationTask",
    "load_task",
]
