"""What keys ask of models: held to their limits, and counted."""
