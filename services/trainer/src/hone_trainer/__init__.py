"""Turns a run spec and a file of examples into a sealed LoRA adapter."""

__version__ = "0.1.0"
