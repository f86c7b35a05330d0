"""OpenAI's Files and Fine-tuning API on one's own GPUs."""
