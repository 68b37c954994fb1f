"""The trusted tier: the only place where one device's update is ever in the clear.

It runs in its own process, holds the keys that devices seal their reports to, and lets out nothing but
sums: noised, charged to the plan's budget, and never of fewer reports than the plan's floor.
"""
