"""What this device agrees to at most, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from pocketfl.errors import PlanRefusedError
from pocketfl.plan.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class DeviceLimits:
    """The app's own guardrails. A plan that goes beyond them is refused; no server can widen them.

    Attributes
    ----------
    min_noise_multiplier : float
        Least noise of a release, as a multiple of one device's norm bound.
    max_epsilon : float
        Largest privacy budget of a task over its whole life.
    max_delta : float
        Its largest delta.
    max_daily_epsilon : float
        Largest privacy budget of one day's log, where a plan's unit of privacy is the day.
    max_sampling_probability : float
        Largest probability of taking part in one round.
    max_participations : int
        Most rounds of one task.
    max_parameters : int
        Largest model.
    allow_unprotected : bool
        Take part in tasks whose plan says ``privacy: none``: no noise, no differential privacy.
    allow_queries : bool
        Answer questions, about examples, models or the device's log; False leaves training alone.
    """

    min_noise_multiplier: float = 0.3
    max_epsilon: float = 20.0
    max_delta: float = 1e-3
    max_daily_epsilon: float = 2.0
    max_sampling_probability: float = 1.0
    max_participations: int = 100_000
    max_parameters: int = 5_000_000
    allow_unprotected: bool = False
    allow_queries: bool = True

    def check(self, manifest: Manifest) -> None:
        """Refuse a plan that asks for more than this.

        Raises
        ------
        PlanRefusedError
            Naming the limit and what the plan has.
        """
        if manifest.queries is not None and not self.allow_queries:
            raise PlanRefusedError(
                f"the plan is of kind {manifest.kind!r}; this device answers no queries "
                "(allow_queries=False)"
            )
        if manifest.model is not None:
            parameters = manifest.model.parameter_count
            if parameters > self.max_parameters:
                raise PlanRefusedError(
                    f"the plan has {parameters} parameters, this device allows "
                    f"{self.max_parameters}"
                )
        if manifest.dp is None:
            if not self.allow_unprotected:
                raise PlanRefusedError(
                    "the plan says privacy 'none': no differential privacy; only an app that sets "
                    "allow_unprotected=True takes part"
                )
            return
        aggregation = manifest.aggregation
        # What a day may cost at most is less than what a task may, for a year has many days.
        max_epsilon = self.max_epsilon
        if manifest.is_daily:
            max_epsilon = min(max_epsilon, self.max_daily_epsilon)
        for name, value, limit, allowed in (
            (
                "noise multiplier",
                manifest.dp.noise_multiplier,
                self.min_noise_multiplier,
                manifest.dp.noise_multiplier >= self.min_noise_multiplier,
            ),
            (
                "epsilon",
                manifest.dp.epsilon,
                max_epsilon,
                manifest.dp.epsilon <= max_epsilon,
            ),
            ("delta", manifest.dp.delta, self.max_delta, manifest.dp.delta <= self.max_delta),
            (
                "sampling probability",
                aggregation.sampling_probability,
                self.max_sampling_probability,
                aggregation.sampling_probability <= self.max_sampling_probability,
            ),
            (
                "number of participations",
                aggregation.max_participations,
                self.max_participations,
                aggregation.max_participations <= self.max_participations,
            ),
        ):
            if not allowed:
                raise PlanRefusedError(
                    f"the plan's {name} is {value:g}, this device's limit is {limit:g}"
                )
