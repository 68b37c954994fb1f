"""``pocketfl bench balancing``: what label balancing does to a private model of a rare label."""
