"""From the published benchmark to item tables, prompts, preference pairs and given answers."""
