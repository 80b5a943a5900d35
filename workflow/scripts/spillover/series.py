"""Series of a study: alignments that differ in one quantity, along which changes can be followed.

Read whenever Snakemake starts, as the study is.
"""

from collections.abc import Mapping

from spillover.elsewhere import is_trained
from spillover.study import MADE_OF


def series_of(config: Mapping) -> list[dict]:
    """The series of a study.

    Returns
    -------
    For each series ``along`` (``training``, ``items``, ``strength`` or ``rank``), ``of``, the
    alignment it is named after, and ``points``: for each ``at``, the value of that quantity,
    ``alignment`` and, for a share of training before its end, ``share`` as runs are named.

    ``training`` : an alignment with ``evaluation.checkpoints``.
    ``items`` : alignments that are the same but for ``pairs.max_items``, the largest names them.
    ``strength``, ``rank`` : what is derived from one alignment, and itself (strength 1, its rank).
    """
    alignments, shares = config["alignments"], config["evaluation"]["checkpoints"]
    controls = {alignment["control"] for alignment in alignments.values()}
    shown = {
        name: alignment
        for name, alignment in alignments.items()
        if alignment["control"] or name not in controls
    }
    found = []
    for name, alignment in shown.items():
        if shares and is_trained(alignment):
            points = [{"at": at, "alignment": name, "share": f"{at:.2f}"} for at in shares]
            points.append({"at": 1.0, "alignment": name})
            found.append({"along": "training", "of": name, "points": points})
    sizes: dict[str, list[dict]] = {}
    for name, alignment in shown.items():
        if is_trained(alignment) and alignment["pairs"]["max_items"] is not None:
            parts = {part: alignment.get(part) for part in MADE_OF}
            parts["pairs"] = {k: v for k, v in alignment["pairs"].items() if k != "max_items"}
            point = {"at": alignment["pairs"]["max_items"], "alignment": name}
            sizes.setdefault(str(parts), []).append(point)
    found += _rising("items", [points for points in sizes.values() if len(points) > 1])
    for along, key in (("strength", "strength"), ("rank", "truncate_rank")):
        derived_from: dict[str, list[dict]] = {}
        for name, alignment in shown.items():
            derive = alignment.get("derive", {})
            if key in derive:
                points = derived_from.setdefault(derive["from"], [])
                points.append({"at": derive[key], "alignment": name})
        for source, points in derived_from.items():
            whole = 1.0 if along == "strength" else alignments[source]["lora"]["r"]
            if is_trained(alignments[source]) or along == "strength":
                points.append({"at": whole, "alignment": source})
            found += [one | {"of": source} for one in _rising(along, [points])]
    return found


def _rising(along: str, groups: list[list[dict]]) -> list[dict]:
    """Series of groups of points, each in the order of the quantity."""
    ordered = [sorted(points, key=lambda point: point["at"]) for points in groups]
    return [{"along": along, "of": points[-1]["alignment"], "points": points} for points in ordered]
