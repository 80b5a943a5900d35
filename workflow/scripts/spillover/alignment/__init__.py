"""LoRA by DPO: settings, training, restarts, the plan before it and diagnostics after it."""
