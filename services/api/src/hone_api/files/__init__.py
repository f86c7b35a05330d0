"""What clients upload: on disk by its digest, and read by the trainer before anybody learns from it."""
