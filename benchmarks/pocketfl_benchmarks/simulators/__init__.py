"""Simulators side by side on the same work: PocketFL, Apple's pfl-research, and Flower's simulation."""
