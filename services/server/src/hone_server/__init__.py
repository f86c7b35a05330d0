"""Serves a fused model through vLLM after proving that it is the model that was trained."""

__version__ = "0.1.0"
