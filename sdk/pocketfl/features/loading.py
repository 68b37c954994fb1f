"""From the store to arrays: what a round trains on, and what a prediction needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pocketfl.balancing.selection import apply_balancing, candidates
from pocketfl.features.pipeline import FeaturePipeline, Selection
from pocketfl.store.examples import Examples, ExampleStore


def load_arrays(
    store: ExampleStore,
    pipeline: FeaturePipeline,
    *,
    limit: int,
    seed: int,
    up_to: int | None = None,
    collection: str | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Select examples and make the model's inputs and ``target`` of them.

    Parameters
    ----------
    store : ExampleStore
        Holds the plan's collection, and its server table if it joins one.
    pipeline : FeaturePipeline
        The plan's features.
    limit : int
        Most examples to take.
    seed : int
        Decides which, when there are more.
    up_to : int, optional
        Highest id of an example to take; see :meth:`ExampleStore.select`.
    collection : str, optional
        Another collection with the same fields; the plan's own by default.

    Returns
    -------
    dict of str to ndarray
        All with the same number of rows, which may be 0: see :meth:`FeaturePipeline.arrays`.

    Raises
    ------
    StoreError
        If the collection does not exist.
    FeatureError
        If it does not hold what the plan reads.
    """
    examples, selection = load_examples(
        store, pipeline, limit=limit, seed=seed, up_to=up_to, collection=collection
    )
    return pipeline.assemble(examples, selection)


def load_examples(
    store: ExampleStore,
    pipeline: FeaturePipeline,
    *,
    limit: int,
    seed: int,
    up_to: int | None = None,
    collection: str | None = None,
) -> tuple[Examples, Selection]:
    """Select examples, and say which of them count and what is joined to them.

    Takes and raises what :func:`load_arrays` does.
    """
    spec = pipeline.spec
    name = spec.collection if collection is None else collection
    pipeline.check(store.collection(name), name=name)
    examples = store.select(name, limit=limit, seed=seed, up_to=up_to)
    table = spec.server_table
    if table is None:
        return examples, pipeline.select(examples)
    keys = pipeline.keys(examples.columns[table.key_field])
    return examples, pipeline.select(examples, store.server_features(table.name, keys=keys))


def load_training_arrays(
    store: ExampleStore,
    pipeline: FeaturePipeline,
    *,
    limit: int,
    seed: int,
    up_to: int | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Select, transform and balance what a training run learns from.

    Parameters are those of :func:`load_arrays`; ``limit`` holds after balancing, and ``seed`` also
    decides which examples are kept.

    Returns
    -------
    dict of str to ndarray
        As of :func:`load_arrays`, and ``weight`` where the plan weighs classes.

    Raises
    ------
    StoreError
        If the collection does not exist.
    FeatureError
        If it does not hold what the plan reads, or a target is none of the classes.
    """
    label = pipeline.spec.label
    balancing = None if label is None else label.balancing
    arrays = load_arrays(
        store, pipeline, limit=candidates(balancing, limit=limit), seed=seed, up_to=up_to
    )
    return apply_balancing(arrays, balancing, limit=limit, seed=seed)


def load_inputs(
    store: ExampleStore,
    pipeline: FeaturePipeline,
    examples: Sequence[Mapping[str, object]],
    *,
    times: Sequence[float],
) -> dict[str, NDArray[np.generic]]:
    """Make the model's inputs of examples that are not in the store.

    Parameters
    ----------
    store : ExampleStore
        Holds the server table, if the plan joins one.
    pipeline : FeaturePipeline
        The plan's features.
    examples : sequence of mapping
        As the app wrote them; no label needed.
    times : sequence of float
        Unix time of each in seconds, for the join.

    Returns
    -------
    dict of str to ndarray
        One row per example.

    Raises
    ------
    FeatureError
        Naming field and row.
    """
    table = pipeline.spec.server_table
    if table is None:
        return pipeline.inputs(examples)
    values = [
        example.get(table.key_field) if isinstance(example, Mapping) else None
        for example in examples
    ]
    features = store.server_features(table.name, keys=pipeline.keys(values))
    return pipeline.inputs(examples, pipeline.join(values, times, features))
