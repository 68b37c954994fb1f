"""How a device trains locally: epochs, optimizer, clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pocketfl.checks import require


@dataclass(frozen=True, kw_only=True)
class LocalOptimizerSpec:
    """The optimizer that is compiled into the training step; its numbers are those of ``torch.optim``.

    What it remembers from one batch to the next lasts for one local training: a round begins with an
    optimizer that knows nothing, for what it learnt belongs to other parameters.

    Attributes
    ----------
    kind : {"sgd", "adam", "adamw"}
        Adam after Kingma and Ba (arXiv 1412.6980), with bias correction; AdamW decays weights apart
        from the gradient (arXiv 1711.05101).
    momentum : float
        Of SGD (Polyak's, undampened).
    weight_decay : float
        L2 penalty, added to the clipped gradient; for ``adamw`` the decoupled decay.
    beta1, beta2, epsilon : float
        Of Adam.
    proximal : float
        FedProx's mu (arXiv 1812.06127): adds ``mu / 2`` times the squared distance from the parameters
        that training started with to what is minimised. The reported loss is without it.
    """

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    proximal: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "momentum must be at least 0 and below 1")
        require(0 <= self.weight_decay <= 1, "weight_decay must be 0 to 1")
        require(0 <= self.beta1 < 1, "beta1 must be at least 0 and below 1")
        require(0 <= self.beta2 < 1, "beta2 must be at least 0 and below 1")
        require(0 < self.epsilon <= 1, "epsilon must be above 0 and at most 1")
        require(0 <= self.proximal <= 1000, "proximal must be 0 to 1000")
        require(
            self.kind == "sgd" or self.momentum == 0,
            f"momentum is SGD's; {self.kind} has beta1 instead",
        )

    @property
    def is_adaptive(self) -> bool:
        """Whether it is one of Adam's kind."""
        return self.kind != "sgd"


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How a device trains locally in one round.

    Attributes
    ----------
    epochs : int
        Passes over the selected examples.
    max_examples : int
        Most examples used in one round.
    learning_rate : float
        Of the optimizer.
    max_gradient_norm : float
        L2 norm that gradients are clipped to; a large value means no clipping.
    clipping : {"example"} or None
        ``example`` clips each example's gradient before they are averaged (arXiv 1607.00133, without
        its noise): then no example moves a step by more than its share of ``max_gradient_norm``. None
        clips the batch's mean gradient.
    optimizer : LocalOptimizerSpec or None
        None for plain SGD.
    """

    epochs: int = 1
    max_examples: int = 256
    learning_rate: float = 0.1
    max_gradient_norm: float = 10.0
    clipping: Literal["example"] | None = None
    optimizer: LocalOptimizerSpec | None = None

    def __post_init__(self) -> None:
        require(1 <= self.epochs <= 100, "epochs must be 1 to 100")
        require(1 <= self.max_examples <= 1_000_000, "max_examples must be 1 to 1,000,000")
        require(0 < self.learning_rate <= 1000, "learning_rate must be above 0 and at most 1000")
        require(0 < self.max_gradient_norm <= 1e6, "max_gradient_norm must be above 0, 1e6 at most")

    @property
    def minimizer(self) -> LocalOptimizerSpec:
        """The optimizer; one of plain SGD where the plan names none."""
        return self.optimizer or LocalOptimizerSpec()
