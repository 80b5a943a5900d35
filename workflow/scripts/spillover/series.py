"""Series of a study: alignments that differ in one quantity, along which changes can be followed.

Read whenever Snakemake starts, as the study is.
"""

from collections.abc import Mapping

from spillover import arms
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
    shown = {name: alignments[name] for name in arms.shown(config)}
    found = []
    for name, alignment in shown.items():
        if shares and is_trained(alignment):
            points = [{"at": at, "alignment": name, "share": f"{at:.2f}"} for at in shares]
            points.append({"at": 1.0, "alignment": name})
            found.append(_series("training", name, points))
    sizes: dict[str, list[dict]] = {}
    for name, alignment in shown.items():
        if is_trained(alignment) and alignment["pairs"]["max_items"] is not None:
            parts = {part: alignment.get(part) for part in MADE_OF}
            parts["pairs"] = {k: v for k, v in alignment["pairs"].items() if k != "max_items"}
            point = {"at": alignment["pairs"]["max_items"], "alignment": name}
            sizes.setdefault(str(parts), []).append(point)
    for points in sizes.values():
        if len({point["at"] for point in points}) > 1:
            largest = max(points, key=_at)["alignment"]
            found.append(_series("items", largest, points))
    for along, key in (("strength", "strength"), ("rank", "truncate_rank")):
        derived_from: dict[str, list[dict]] = {}
        for name, alignment in shown.items():
            derive = alignment.get("derive", {})
            if key in derive:
                points = derived_from.setdefault(derive["from"], [])
                points.append({"at": derive[key], "alignment": name})
        for source, points in derived_from.items():
            if along == "strength":
                points.append({"at": 1.0, "alignment": source})
            elif is_trained(alignments[source]):  # the rank of others is in their files
                points.append({"at": alignments[source]["lora"]["r"], "alignment": source})
            found.append(_series(along, source, points))
    return found


def _series(along: str, of: str, points: list[dict]) -> dict:
    """A series by rising value; of copies, which have one value, the last."""
    by_value = {point["at"]: point for point in points}
    return {"along": along, "of": of, "points": sorted(by_value.values(), key=_at)}


def _at(point: Mapping) -> float:
    return point["at"]
