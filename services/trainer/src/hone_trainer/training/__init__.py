"""A planned run, trained, in one direction:

tokens       its records as token ids, kept in the store
batches      which records a step learns from, and how they share forward passes (collating)
assembling   the model with its adapter (lora, lora_layers), and TRL's trainer around it (sft)
attention    records in one row that do not see each other; loss  of the learned tokens only
rhythm       when it evaluates, saves and stops (stopping); checkpoints  are sealed (saving)
failures     what goes wrong, in words that say what to do
ranks        several processes as one, which may have a part of the model each (sharding)
"""
