"""Check a configuration against its schema: one line an error, in the user's words."""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend

from spillover.core.errors import InputError

# 100.0 is an integer to JSON Schema, and none to what counts with it.
Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda checker, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def check(config: Mapping, schema: Mapping) -> None:
    """Check a configuration against the schema.

    Raises
    ------
    InputError
        For the first fault: the key, what was expected, what was found.
    """
    _check_yaml(config, "")
    validator = Validator(schema, format_checker=FormatChecker())
    errors = list(validator.iter_errors(config))
    if errors:
        # A misspelt key often makes another one missing: tell the cause first.
        unknown = [e for e in errors if e.validator == "additionalProperties"]
        raise InputError(_describe(unknown[0] if unknown else best_match(errors)))


def check_keys(path: str | Path) -> None:
    """Refuse a study file that has a key twice: YAML would take the last, without a word.

    Raises
    ------
    InputError
        For the first such key.
    """
    pending, visited = [yaml.compose(Path(path).read_text(), Loader=yaml.SafeLoader)], set()
    while pending:
        node = pending.pop()
        if id(node) in visited:  # by an alias
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                pending.append(value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise InputError(f"line {line}: {key.value!r} stands here a second time")
                keys.add(key.value)


def _check_yaml(part: object, key: str) -> None:
    """Refuse what YAML can say and a schema cannot judge: keys that are not text, and NaN."""
    if isinstance(part, Mapping):
        for name, value in part.items():
            if not isinstance(name, str):
                raise InputError(
                    f"{key or 'the configuration'}: expected keys that are text, found {name!r} "
                    f"({type(name).__name__}); put it in quotes"
                )
            _check_yaml(value, f"{key}.{name}" if key else name)
    elif isinstance(part, list):
        for index, value in enumerate(part):
            _check_yaml(value, f"{key}.{index}")
    elif isinstance(part, float) and not math.isfinite(part):
        raise InputError(f"{key}: expected a finite number, found {part}")


def _describe(error: ValidationError) -> str:
    key = ".".join(map(str, error.absolute_path)) or "the configuration"
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        name = next(name for name in error.instance if name not in known)
        nearest = difflib.get_close_matches(str(name), known, 1, cutoff=0)
        return (
            f"{key}: unknown key {name!r}; the nearest known key is {nearest[0]!r} "
            f"(known: {', '.join(known)})"
        )
    if error.validator == "enum":
        found = str(error.instance)
        nearest = difflib.get_close_matches(found, map(str, error.validator_value), 1, cutoff=0)
        return (
            f"{key}: expected one of {', '.join(map(str, error.validator_value))}; found "
            f"{error.instance!r}, the nearest is {nearest[0] if nearest else None!r}"
        )
    if error.validator == "type":
        return (
            f"{key}: expected {_listed(error.validator_value)}, found {error.instance!r}"
            f" ({type(error.instance).__name__}){_type_hint(error)}"
        )
    if error.validator == "oneOf":
        return f"{key}: expected either source or predictions, found {sorted(error.instance)}"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{key}: expected the key {missing[0]!r}, found {sorted(error.instance)}"
    if error.validator == "not":
        return f"{key}: the name {error.instance!r} is taken by a folder of the results"
    if error.validator == "pattern" and "description" in error.schema:
        return f"{key}: expected {error.schema['description']}, found {error.instance!r}"
    return f"{key}: {error.message}"


def _listed(types: str | list[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _type_hint(error: ValidationError) -> str:
    """How to write what was meant: YAML 1.1 reads 5e-5, without a dot, as text."""
    expected, found = error.validator_value, error.instance
    if isinstance(found, bool):
        return ""
    if expected == "string" and isinstance(found, int | float):
        return "; put it in quotes"
    try:
        number = float(found)
    except (TypeError, ValueError):
        return ""
    if "integer" in expected and number.is_integer():
        return f"; write it as {number:.0f}"
    return f"; it is given as text, write it as {number:.1e}" if isinstance(found, str) else ""
