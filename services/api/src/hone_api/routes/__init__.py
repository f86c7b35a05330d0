"""One module for each of OpenAI's resources: what it takes, and what it answers."""
