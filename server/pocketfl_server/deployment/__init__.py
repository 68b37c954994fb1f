"""A deployment on one machine: its settings, its processes, and what starts and stops them."""
