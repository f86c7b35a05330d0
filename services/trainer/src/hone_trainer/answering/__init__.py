"""What models answer, and how good it is.

lookup       models by what people call them; candidates  opens those that are compared
prompts      what they are asked
scoring      log probabilities of given tokens; continuing  what a model says by itself (padding, sampling)
answers      from records to texts
generate     `hone-trainer generate`
evaluate     `hone-trainer evaluate`: on which records (evaluation_data), by which numbers (metrics)
probing      the prompts and answers that travel with what a run made
"""
