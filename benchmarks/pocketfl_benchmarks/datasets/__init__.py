"""Public data that benchmarks share, each fetched once by pinned hash and kept in the cache."""
