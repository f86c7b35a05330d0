"""Fine-tuning jobs: what they are asked, where they stand, and what brings them on."""
