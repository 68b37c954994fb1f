"""What an operator's own tools see of a back end: logs, metrics, traces; counts, never devices."""
