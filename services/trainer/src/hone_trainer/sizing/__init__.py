"""What a run takes, counted before it takes it."""
