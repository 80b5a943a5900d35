"""A run's answers and scores in forms that others read: Every Eval Ever, model-index.

Every Eval Ever, schema 0.3: a record of scores a run, and beside it one sample an answer, from
which :func:`spillover.data.answers.read` has the same predictions again.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from spillover.core.files import sha256
from spillover.statistics import outcomes

SCHEMA = "0.3.0"
BBQ = "https://github.com/nyu-mll/BBQ"
METRICS = {
    "accuracy": {
        "metric_id": "accuracy",
        "metric_name": "accuracy",
        "evaluation_description": "share of right answers, option orders averaged item by item",
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0,
        "max_score": 1,
    },
    "bias_score": {
        "metric_id": "bbq_bias_score",
        "metric_name": "BBQ bias score",
        "evaluation_description": "s_AMB or s_DIS of Parrish et al. (2022): 0 is no bias, 1 every "
        "answer along the stereotype, -1 every answer against it; by magnitude lower is better",
        "lower_is_better": True,
        "score_type": "continuous",
        "min_score": -1,
        "max_score": 1,
    },
}


def model_id(model: str, run: str, source: Mapping) -> str:
    """Name of what was evaluated: a hub repository, or ``local/`` and its name in the study."""
    if run == "base":
        return source.get("repo", f"local/{model}")
    return f"local/{model}_{run.replace('/', '_')}"


def write_record(
    folder: Path,
    items: pd.DataFrame,
    predictions: pd.DataFrame,
    metrics: pd.DataFrame,
    *,
    model: str,
    run: str,
    source: Mapping,
    settings: Mapping,
    version: str,
    timestamp: str,
    alpha: float,
) -> Path:
    """Write a run's record and its samples, where the datastore of Every Eval Ever has them.

    Parameters
    ----------
    folder : gets ``data/bbq/{developer}/{model}/{uuid}.json`` and ``…_samples.jsonl``.
    items : those that were answered.
    metrics : the run's rows of ``metrics.tsv``.
    source : where the model is from, empty if it was answered elsewhere.
    settings : how answers were scored; empty if they were made elsewhere.
    version : of what scored them; ``unknown`` if it was not this workflow.
    timestamp : Unix time, in seconds, of the scores.
    alpha : one minus the level of the bias score's interval.

    Returns
    -------
    Path of the record.
    """
    name = model_id(model, run, source)
    # the study's own names as well: two of its models may be one repository, quantised or not
    identity = f"bbq {model} {run.replace('/', ' ')}/{name}/{timestamp}"
    keys = {"schema_version": SCHEMA, "evaluation_id": identity}
    # shaped as a random one, which the datastore asks for, but the same for the same scores
    digest = bytes.fromhex(sha256(identity.encode()))
    unique = uuid.UUID(bytes=digest[:16], version=4)
    relative = Path("data", "bbq", *(part.replace(":", "_") for part in name.split("/", 1)))
    path = folder / relative / f"{unique}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = "".join(
        json.dumps(keys | {"model_id": name} | sample, ensure_ascii=False) + "\n"
        for sample in _samples(items, predictions)
    ).encode()
    companion = path.with_name(f"{unique}_samples.jsonl")
    companion.write_bytes(samples)
    record = keys | {
        "retrieved_timestamp": timestamp,
        "source_metadata": {
            "source_name": "bias spillover",
            "source_type": "evaluation_run",
            "source_organization_name": "not recorded",
            "evaluator_relationship": "other",
        },
        "eval_library": {
            "name": "bias-spillover" if settings else "unknown",
            "version": version,
            "additional_details": _strings(settings),
        },
        "model_info": {
            "name": f"{model}, {run}",
            "id": name,
            "additional_details": {
                "deployment_type": "self_deployed" if source else "unknown",
                "model_availability": "open_weights" if "repo" in source else "unknown",
            }
            | _strings({key: source[key] for key in ("repo", "revision") if key in source}),
        },
        "evaluation_results": list(_results(metrics, alpha)),
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": (relative / companion.name).as_posix(),
            "hash_algorithm": "sha256",
            "checksum": sha256(samples),
            "total_rows": len(predictions),
        },
    }
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def model_index(name: str, metrics: pd.DataFrame) -> str:
    """Metadata of a model card (YAML): a run's accuracy and bias scores.

    Parameters
    ----------
    name : the model's.
    metrics : the run's rows of ``metrics.tsv``.
    """
    results = [
        EvalResult(
            task_type="question-answering",
            task_name="multiple choice",
            dataset_type="bbq",
            dataset_name=f"BBQ {row['attribute']}, {row['context']}",
            # results are told apart by it, not by the name
            dataset_config=f"{row['attribute']}-{row['context']}",
            metric_type=METRICS[metric]["metric_id"],
            metric_name=METRICS[metric]["metric_name"],
            metric_value=float(row[metric]),
        )
        for row, metric in _scores(metrics)
    ]
    return ModelCardData(model_name=name, eval_results=results).to_yaml() + "\n"


def _scores(metrics: pd.DataFrame) -> Iterator[tuple[dict, str]]:
    """Rows over all label types, with each score that they have."""
    for row in metrics[metrics["label_type"] == "all"].to_dict("records"):
        for metric in METRICS:
            if not pd.isna(row[metric]):
                yield row, metric


def _results(metrics: pd.DataFrame, alpha: float) -> Iterator[dict]:
    for row, metric in _scores(metrics):
        uncertainty = {"num_samples": row["n_items"]}
        method = f"clustered by template ({row['n_templates']})"
        if metric == "accuracy" and not pd.isna(row["accuracy_se"]):
            uncertainty["standard_error"] = {"value": row["accuracy_se"], "method": method}
        if metric == "bias_score" and not pd.isna(row["bias_score_low"]):
            uncertainty["confidence_interval"] = {
                "lower": row["bias_score_low"],
                "upper": row["bias_score_high"],
                "confidence_level": 1 - alpha,
                "method": method,
            }
        yield {
            "evaluation_result_id": f"{row['attribute']}/{row['context']}/{metric}",
            "evaluation_name": f"BBQ {row['attribute']}, {row['context']}",
            "source_data": {"dataset_name": "BBQ", "source_type": "url", "url": [BBQ]},
            "metric_config": METRICS[metric],
            "score_details": {"score": row[metric], "uncertainty": uncertainty},
        }


def _samples(items: pd.DataFrame, predictions: pd.DataFrame) -> Iterator[dict]:
    """An answer each: a row of predictions, with what its item asked."""
    table = predictions.merge(items, on="item_id", how="left", validate="many_to_one")
    table["outcome"] = outcomes.label_outcomes(table, table["predicted"])
    for row in table.to_dict("records"):
        order = [int(option) for option in row["order"]]
        chosen = None if pd.isna(row["predicted"]) else row["options"][row["predicted"]]
        gold = row["options"][row["gold"]]
        logp = [row.get(f"logp_{option}") for option in order]
        known = not any(map(pd.isna, logp))
        asked = f"Context: {row['context']}\nQuestion: {row['question']}"
        metadata = {
            "attribute": row["attribute"],
            "example_id": row["example_id"],
            "context_condition": row["context_condition"],
            "order": row["order"],
            "outcome": row["outcome"],
            "choice_logprobs": json.dumps(logp) if known else None,
            "option_mass": None if pd.isna(row.get("option_mass")) else row["option_mass"],
        }
        attribution = {
            "turn_idx": 0,
            "source": "output.raw",
            "extracted_value": chosen,
            "extraction_method": "highest log-probability" if known else "custom",
            "is_terminal": True,
        }
        context = row["context_condition"]
        yield {
            "evaluation_name": f"BBQ {row['attribute']}, {context}",
            "evaluation_result_id": f"{row['attribute']}/{context}/accuracy",
            "sample_id": row["item_id"],
            "sample_hash": sha256(f"{asked}{gold}".encode()),
            "interaction_type": "single_turn",
            "input": {
                "raw": asked,
                "reference": [gold],
                "choices": [row["options"][option] for option in order],
            },
            "output": {"raw": [row.get("response") or chosen or ""]},
            "answer_attribution": [attribution] if chosen is not None else [],
            "evaluation": {"score": float(chosen == gold), "is_correct": chosen == gold},
            "metadata": _strings(metadata),
        }


def _strings(values: Mapping) -> dict[str, str]:
    """The values that are known, as the schema wants them."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
        if not (value is None or value is pd.NA or value != value)
    }
