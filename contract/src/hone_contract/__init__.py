"""What Hone's services agree on. Imports neither torch nor transformers nor vLLM."""

__version__ = "0.1.0"
