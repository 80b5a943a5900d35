"""Causal language models: checked, loaded, spoken to, run over prefix trees."""
