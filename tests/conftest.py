"""What all tests share: hypothesis draws the same examples everywhere and is in no hurry."""

from hypothesis import HealthCheck, settings

# A machine that others use too takes its time over an example; that says nothing about the code. And
# examples drawn anew in every run would find something some day, and blame a change that has no part in
# it: `pytest --hypothesis-profile=explore` looks for such.
settings.register_profile(
    "explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile(
    "repeatable", settings.get_profile("explore"), derandomize=True, database=None
)
settings.load_profile("repeatable")
