"""An adapter and its base, one base tensor at a time:

checkpoint   which tensors a model folder has, and where
skeleton     the adapter model on the meta device: PEFT's layers with the adapter's tensors, none of the base
changes      which parameters of the base the adapter changes, and how
names        which parameters a checkpoint's tensors are, there and back
layout       every tensor of the output, and how it is made, some rows at a time (pieces)
shards       writes them, hashes them while they are written, and goes on where a killed merge ended
"""
