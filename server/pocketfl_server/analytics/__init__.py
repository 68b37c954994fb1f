"""What the back end makes of released sums: tasks that ask, and estimators that read the answers."""
