"""What a run takes, counted before it takes it: `hone-trainer estimate` and the checks before a run."""
