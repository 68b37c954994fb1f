"""Which part of a model each operator of a traced graph came from, for names that people can read.

An operator of the forward pass belongs to the module whose ``forward`` runs. One of the backward pass
belongs to the module that made the autograd node which runs: autograd numbers its nodes in the order in
which they are made, so that a module owns the numbers between its start and its end.
"""

from __future__ import annotations

import contextlib
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final
from unittest import mock

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import PythonKeyTracer
from torch.nn.modules import module as module_hooks

SCOPE: Final = "scope"
"""Key of a node's metadata: ``layers.0``, ``layers.0.grad``, ``loss``, or nothing."""
_GRADIENT: Final = "grad"


class _Follower:
    """Knows where the code that runs now belongs to."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.replayed: str | None = None
        self._open = [""]
        self._starts = [0]
        self._owners = [""]

    def enter(self, scope: str) -> None:
        self._open.append(scope)
        self._note()

    def leave(self) -> None:
        self._open.pop()
        self._note()

    def current(self) -> str:
        if self.replayed is not None:
            return self.replayed
        node = torch._C._current_autograd_node()
        if node is None:
            return self._open[-1]
        number = node._sequence_nr()
        if number > sys.maxsize:  # Nodes that only add gradients up belong to nobody.
            return _GRADIENT
        owner = self._owners[bisect_right(self._starts, number) - 1]
        return f"{owner}.{_GRADIENT}" if owner else _GRADIENT

    def _note(self) -> None:
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._owners.append(self._open[-1])


_follower: ContextVar[_Follower | None] = ContextVar("follower", default=None)


@contextlib.contextmanager
def follow_modules(*models: nn.Module) -> Iterator[None]:
    """Within this context traced operators are labelled with the modules of these models."""
    names = {id(module): name for model in models for name, module in model.named_modules()}
    follower = _Follower(names)

    def enter(module: nn.Module, _arguments: Any) -> None:
        if id(module) in names:
            follower.enter(names[id(module)])

    def leave(module: nn.Module, _arguments: Any, _result: Any) -> None:
        if id(module) in names:
            follower.leave()

    original = PythonKeyTracer.create_node

    def create_node(tracer: Any, *arguments: Any, **keywords: Any) -> fx.Node:
        node = original(tracer, *arguments, **keywords)
        node.meta[SCOPE] = follower.current()
        return node

    before = module_hooks.register_module_forward_pre_hook(enter)
    after = module_hooks.register_module_forward_hook(leave)
    token = _follower.set(follower)
    try:
        with mock.patch.object(PythonKeyTracer, "create_node", create_node):
            yield
    finally:
        _follower.reset(token)
        before.remove()
        after.remove()


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Label operators that belong to no module, such as the loss."""
    follower = _follower.get()
    if follower is None:
        yield
        return
    follower.enter(name)
    try:
        yield
    finally:
        follower.leave()


class Replay(fx.Interpreter):
    """Runs a recorded graph so that a second recording has the labels of the first."""

    def run_node(self, n: fx.Node) -> Any:
        """Run one node under its label."""
        follower = _follower.get()
        if follower is None:
            return super().run_node(n)
        follower.replayed = n.meta.get(SCOPE, "")
        try:
            return super().run_node(n)
        finally:
            follower.replayed = None
