"""Examples on the device: typed collections in one SQLite file."""

from pocketfl.store.examples import Examples, ExampleStore, FeatureValue, ServerFeatures
from pocketfl.store.schema import Collection, Field

__all__ = [
    "Collection",
    "ExampleStore",
    "Examples",
    "FeatureValue",
    "Field",
    "ServerFeatures",
]
