"""What a model answers to items, as log-probabilities or as text."""
