"""Examples on the device: typed, encrypted collections in one SQLite file."""

from pocketfl.store.examples import Examples, ExampleStore
from pocketfl.store.quarantine import Quarantine
from pocketfl.store.revocation import Erasure, derived_state
from pocketfl.store.schema import Collection, Field, Retention
from pocketfl.store.server_features import FeatureValue, ServerFeatures
from pocketfl.store.vault import FileKeyVault, KeyVault

__all__ = [
    "Collection",
    "Erasure",
    "ExampleStore",
    "Examples",
    "FeatureValue",
    "Field",
    "FileKeyVault",
    "KeyVault",
    "Quarantine",
    "Retention",
    "ServerFeatures",
    "derived_state",
]
