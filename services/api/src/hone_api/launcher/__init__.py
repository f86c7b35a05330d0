"""Where a job's stages run, and what is known of them there."""
