"""A month of a fleet: real schedulers, ledgers and conditions on a clock that runs ahead."""
