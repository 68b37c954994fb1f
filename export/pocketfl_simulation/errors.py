"""What goes wrong with a simulation."""

from pocketfl.errors import PocketFLError


class SimulationError(PocketFLError):
    """A simulation was asked for something that it cannot do; the message says what to change."""
