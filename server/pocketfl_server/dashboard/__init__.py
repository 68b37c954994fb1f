"""The operator's dashboard: one page, rendered here, that asks nothing of any other server."""
