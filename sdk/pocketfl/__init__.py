"""PocketFL: train compact models on the device that holds the data."""

__version__ = "0.1.0"
