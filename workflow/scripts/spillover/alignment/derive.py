"""Adapters made of others, without training: an update cut to a lower rank, updates merged.

In the words of :mod:`plain_lora`, an adapter changes a matrix of its base by dW = s B A.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from spillover.alignment.plain_lora import PLACES, PlainLora, divisor, pairs_of, read, write
from spillover.core.errors import InputError, first_line
from spillover.models.adapters import CONFIG, check_adapter
from spillover.models.architecture import read_config, without_weights

# Those that drop parts of A and B, and so need a density.
PRUNING = ("ties", "dare_ties")
METHODS = ("linear", "cat", *PRUNING)
DENSITY = 0.5


def truncate(folder: str | Path, rank: int, output: str | Path) -> None:
    """Write an adapter whose updates are another's, cut to their largest singular values.

    Of each matrix, the best approximation of dW of that rank in the Frobenius norm (Eckart and
    Young 1936), as in arXiv 2606.07596. dW itself is never formed: with B = Qb Rb and
    A^T = Qa Ra it has the singular values of the small matrix Rb Ra^T, times s.

    Computed in float64, stored in the source's dtype. Each module keeps its scaling s. A
    module whose rank is not larger keeps its tensors as they are.

    Parameters
    ----------
    folder : of a LoRA adapter in PEFT's format.
    rank : at least 1.
    output : folder to write ``adapter_config.json`` and ``adapter_model.safetensors`` to.

    Raises
    ------
    InputError
        If the adapter is no plain LoRA.
    """
    if rank < 1:
        raise InputError(f"derive.truncate_rank: expected at least 1, found {rank}")
    source = read(folder)
    tensors, alphas = {}, {}
    for module, names in source.pairs().items():
        a, b = source.tensors[names["A"]], source.tensors[names["B"]]
        if rank < len(a):
            a, b = (part.to(a.dtype).contiguous() for part in _truncated(a, b, rank))
        tensors |= {names["A"]: a, names["B"]: b}
        alphas[module] = source.scaling(module) * divisor(source.config, len(a))
    write(source.config, tensors, alphas, output)


def complete(settings: Mapping) -> dict:
    """Settings of a merge (``merge, method``) with the ``weights`` and ``density`` left out.

    Weights of 1 / n, or 1 with ties and dare_ties, which take a mean of what agrees in sign by
    themselves; of a single adapter PEFT drops nothing.
    """
    n = len(settings["merge"])
    weight = 1.0 if settings["method"] in PRUNING else 1 / n
    complete = {**settings, "weights": settings.get("weights") or [weight] * n}
    if settings["method"] in PRUNING and settings.get("density") is None:
        complete["density"] = DENSITY if n > 1 else 1
    return complete


def merge(
    folders: Sequence[str | Path],
    weights: Sequence[float],
    method: str,
    output: str | Path,
    model_folder: str | Path,
    density: float | None = None,
    seed: int = 0,
) -> None:
    """Write the adapter that PEFT's ``add_weighted_adapter`` makes of several.

    Only the shapes of the base are looked at. All is computed and stored in float32, with a
    scaling of 1. With weights w and updates dW = s B A of n adapters:

    - ``cat`` is the sum of w dW, its rank the sum of their ranks.
    - ``linear`` is B A with B the sum of sqrt(w s) B and A that of sqrt(w s) A, products of one
      adapter's B with another's A among it. It is not the sum of w dW: n times the same adapter
      with weights 1/n make n times its update.
    - ``ties`` (Yadav et al. 2023) drops all but the largest of each A and B and takes, element by
      element, the mean of those of the majority's sign; ``dare_ties`` (Yu et al. 2024) drops at
      random instead, and scales up what is left. Both work on A and B, not on dW.
      n times the same adapter with weights 1/n make 1/n of its update by ``ties``: its mean is
      over the adapters already.

    A single adapter is scaled by its weight, whatever the method.

    Parameters
    ----------
    folders : of LoRA adapters of the same base.
    weights : one an adapter; negative ones subtract.
    method : one of :data:`METHODS`.
    output : as in :func:`truncate`.
    model_folder : of the base; its configuration is read.
    density : share in (0, 1] that ``ties`` and DARE keep; None for the other methods.
    seed : of what DARE drops.

    Raises
    ------
    InputError
        If the settings do not fit each other, an adapter is no plain LoRA or none of this base,
        or the adapters are of different bases, on different modules or, but for ``cat``, of
        different ranks.
    """
    _check_settings(len(folders), weights, method, density)
    sources = [read(folder) for folder in folders]
    _check_together(sources, method)
    for source in sources:
        # Names were compared with the study's when the sources were made.
        check_adapter(source.file.parent, model_folder, source.config.base_model_name_or_path)
    names = [f"source_{number}" for number in range(len(sources))]
    with torch.random.fork_rng(devices=[]):
        model = PeftModel(_without_memory(model_folder), sources[0].config, names[0])
        for name, source in zip(names, sources, strict=True):
            if name != names[0]:
                model.add_adapter(name, source.config)
            set_peft_model_state_dict(model, source.tensors, adapter_name=name)
        torch.manual_seed(seed)
        try:
            model.add_weighted_adapter(names, list(weights), "merged", method, density=density)
        except ValueError as error:
            raise InputError(f"derive.merge: {first_line(error)}") from error
    tensors = get_peft_model_state_dict(model, adapter_name="merged", save_embedding_layers=False)
    # Scalings are in A and B now, and PEFT's new adapter has none, but for rsLoRA's.
    config = dataclasses.replace(model.peft_config["merged"], use_rslora=False)
    alphas = {module: len(tensors[pair["A"]]) for module, pair in pairs_of(tensors).items()}
    write(config, tensors, alphas, output)


def _truncated(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of the best approximation of B A, in float64, of equal norms.

    The rank may be lower, if the matrix has no more rows or columns.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, values, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    left, right, values = (q_b @ u)[:, :rank], (q_a @ v.T)[:, :rank], values[:rank]
    # A pair of singular vectors may change its sign; here the largest entry is positive.
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    root = values.sqrt() * largest.sign()
    return (right * root).T, left * root


def _check_settings(
    n_adapters: int, weights: Sequence[float], method: str, density: float | None
) -> None:
    if method not in METHODS:
        raise InputError(f"derive.method: expected one of {', '.join(METHODS)}, found {method}")
    if n_adapters == 0 or len(weights) != n_adapters or not all(map(math.isfinite, weights)):
        raise InputError(
            f"derive.weights: expected a number for each of {n_adapters} adapters, found "
            f"{list(weights)}"
        )
    if method not in PRUNING:
        if density is not None:
            raise InputError(f"derive.density: {method} has none, found {density}")
        return
    if density is None or not 0 < density <= 1:
        raise InputError(
            f"derive.density: {method} keeps a share of the parameters; expected one above 0 and "
            f"up to 1, found {density}"
        )
    if n_adapters == 1 and density < 1:
        raise InputError(
            f"derive.density: PEFT drops nothing of a single adapter; expected 1, found {density}"
        )


def _check_together(sources: Sequence[PlainLora], method: str) -> None:
    """Refuse adapters that PEFT would not merge, or would merge with parts left out."""
    first = sources[0]
    for source in sources[1:]:
        files = f"{first.file.parent / CONFIG} and {source.file.parent / CONFIG}"
        bases = [str(each.config.base_model_name_or_path) for each in (first, source)]
        if bases[0].lower() != bases[1].lower():
            raise InputError(
                f"{files}: expected adapters of one base (base_model_name_or_path), found "
                f"{bases[0]} and {bases[1]}"
            )
        for place in PLACES:
            found = [getattr(each.config, place) for each in (first, source)]
            if found[0] != found[1]:
                raise InputError(
                    f"{files}: expected the same {place}, found {found[0]} and {found[1]}"
                )
        if method == "cat":
            continue
        for module in sorted(first.pairs().keys() & source.pairs().keys()):
            if first.rank(module) != source.rank(module):
                raise InputError(
                    f"{files}: {method} needs adapters of one rank, found {first.rank(module)} "
                    f"and {source.rank(module)} on {module}; use cat, or derive.truncate_rank first"
                )


def _without_memory(model_folder: str | Path) -> torch.nn.Module:
    """A model on the CPU whose every parameter is one number, seen as a whole matrix.

    PEFT moves adapters to their base's device. On the meta device they would lose their values.
    """
    model = without_weights(read_config(model_folder))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            matrix = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            setattr(module, name, torch.nn.Parameter(matrix, requires_grad=False))
    return model
