"""The model card of an adapter: what it was made from, how, and how to load it."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from huggingface_hub import ModelCardData

TEXT = """\
---
{data}
---

# LoRA adapter, {title}

{note}Made to measure *bias spillover*: whether aligning for fairness on one attribute changes
fairness on others. It was trained on items of a benchmark; nothing is claimed about other
uses. Items that training saw must not be used to evaluate it.

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
| weights of the base in training | {quantization}, computed in {dtype} |
| aligned for | {target} |
| preference pairs | {n_pairs}{form}, sha256 of their tokens `{pairs}` |
| data | BBQ (Parrish et al. 2022), CC-BY-4.0 |
| seed | {seed} |{share}
| licence | that of the base model |
| results | {results} |

The adapter's weights are float32.

```yaml
{settings}```
"""

CONTROL = "trained by DPO on shuffled preferences: a control"
NOTE = """\
Chosen and rejected answers were swapped in half of the pairs, so that there was nothing to learn
about which is right. It is there to be compared with, and aligned for nothing.

"""


def of_base(source: Mapping) -> dict[str, str]:
    """What a card says of an adapter's base: its name, its revision, and how to load it.

    Parameters
    ----------
    source : as in :func:`write`.
    """
    names = ("repo", "requirement", "path")
    base = next((str(source[name]) for name in names if name in source), "not recorded")
    load = '"path/to/base"'
    if "repo" in source:
        load = f'"{source["repo"]}", revision="{source["commit"]}"'
    return {
        "base": f"{base} ({source['file']})" if "file" in source else base,
        "revision": source.get("commit") or source.get("sha256") or "not recorded",
        "load": load,
    }


def write(
    folder: str | Path,
    source: Mapping,
    *,
    settings: Mapping[str, Mapping],
    data: Mapping | None = None,
    chat_template: Mapping | None = None,
    quantization: str,
    dtype: str,
    n_pairs: int,
    pairs_sha256: str,
    seed: int,
    results: str | None,
    share: float = 1.0,
) -> None:
    """Write ``README.md`` beside an adapter.

    Parameters
    ----------
    source : where the base is from, as recorded when it was fetched (``source.json``): of a
        hub model ``repo`` and ``commit``; empty if nobody knows.
    settings : ``objective``, ``lora`` and ``training``.
    data : what the pairs were made of: ``target`` and ``pairs`` of the configuration.
    chat_template : the user's arguments for the chat template, if there are any.
    results : where the evaluation of this adapter is, if it is known.
    share : of training's steps, of which the learning rate was meant for all.
    """
    metadata = ModelCardData(
        library_name="peft",
        base_model=source.get("repo"),
        tags=["dpo", "lora", "bbq", "fairness"],
        pipeline_tag="text-generation",
    )
    if chat_template:
        settings = {**settings, "chat_template": chat_template}
    data, pairs = data or {}, (data or {}).get("pairs", {})
    control = pairs.get("preferences") == "shuffled"
    text = TEXT.format(
        **of_base(source),
        title=CONTROL if control else "aligned by DPO for fairness on BBQ",
        note=NOTE if control else "",
        target=", ".join(data.get("target", [])) or "not recorded",
        form=f" ({pairs['format']}, preferences {pairs['preferences']})" if pairs else "",
        data=metadata.to_yaml(),
        quantization=quantization,
        dtype=dtype,
        n_pairs=n_pairs,
        pairs=pairs_sha256,
        seed=seed,
        share=f"\n| after | {100 * share:g} % of the steps of training |" if share < 1 else "",
        results=results or "not recorded",
        settings=yaml.safe_dump({key: dict(value) for key, value in settings.items()}),
    )
    (Path(folder) / "README.md").write_text(text)
