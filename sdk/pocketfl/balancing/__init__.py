"""Rare classes: keep fewer of the others or weigh them less, and take that back at inference."""

from pocketfl.balancing.spec import Balancing, balance_classes

__all__ = ["Balancing", "balance_classes"]
