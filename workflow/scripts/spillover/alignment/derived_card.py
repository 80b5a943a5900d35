"""The model card of an adapter that was made of others: of which, how, and how to load it."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from huggingface_hub import ModelCardData

from spillover.alignment.model_card import of_base

TEXT = """\
---
{data}
---

# LoRA adapter, {title}

{how} It was not trained itself. Made to measure *bias spillover*: whether aligning for fairness
on one attribute changes fairness on others; nothing is claimed about other uses.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({load})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

| | |
|---|---|
| base model | {base} |
| revision | {revision} |
| seed | {seed} |
| licence | that of the base model |
{parts}

```yaml
{settings}```
"""
TRUNCATED = (
    "Each matrix's update is that of {of}, cut to its largest singular values (arXiv 2606.07596)."
)
MERGED = "PEFT's `add_weighted_adapter` made it of {of}."


def write(
    folder: str | Path, source: Mapping, *, settings: Mapping, parts: Mapping[str, str], seed: int
) -> None:
    """Write ``README.md`` beside an adapter.

    Parameters
    ----------
    source : as in :func:`spillover.alignment.model_card.write`.
    settings : ``from`` and ``truncate_rank``; or ``merge``, ``method``, ``weights``, ``density``.
    parts : the adapters that it was made of, and the SHA-256 of their weights' files.
    """
    of = " and ".join(parts)
    if "merge" in settings:
        title, how = f"merged by {settings['method']}", MERGED.format(of=of)
    else:
        title = f"cut to rank {settings['truncate_rank']}"
        how = TRUNCATED.format(of=of)
    metadata = ModelCardData(
        library_name="peft",
        base_model=source.get("repo"),
        tags=["lora", "bbq", "fairness"],
        pipeline_tag="text-generation",
    )
    text = TEXT.format(
        data=metadata.to_yaml(),
        title=title,
        how=how,
        **of_base(source),
        seed=seed,
        parts="\n".join(
            f"| made of | {name}, sha256 `{sha256}` |" for name, sha256 in parts.items()
        ),
        settings=yaml.safe_dump(dict(settings)),
    )
    (Path(folder) / "README.md").write_text(text)
