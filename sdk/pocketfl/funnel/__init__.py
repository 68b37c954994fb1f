"""A device's log as counters of a day: enough to see what goes wrong in a fleet, and with nobody in it.

Events are counted on the device. They leave it as the answer to a query of a plan, bounded, sealed,
summed over the cohort and noised; one day is reported once.
"""

from pocketfl.funnel.events import ALL_EVENTS, event, funnel_query
from pocketfl.funnel.log import DayLog

__all__ = ["ALL_EVENTS", "DayLog", "event", "funnel_query"]
