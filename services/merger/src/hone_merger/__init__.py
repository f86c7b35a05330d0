"""Fuses an adapter into its base and publishes the result."""

__version__ = "0.1.0"
