"""Reading and writing configurations. Command line beats file beats default."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError, create_model

from core.config import RunConfig, StageConfig
from core.errors import ConfigError
from core.registry import get_domain
from core.samplers import make_sampler


def parse_config(raw: Mapping[str, Any], where: str) -> RunConfig:
    """Validate a raw tree. Raises ConfigError that names ``where``, the key and the remedy."""
    if not isinstance(raw, Mapping) or "domain" not in raw:
        raise ConfigError(f"{where}: no 'domain' given; try 'disco domains' for the names")
    domain = get_domain(str(raw["domain"]))
    schema = create_model("RunConfig", __base__=RunConfig, model=(domain.Config, ...))
    try:
        config = schema.model_validate({"model": {}, **raw})
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e, schema, where) for e in error.errors())) from error
    stages = ["denoiser", "prior", *domain(config).stages()]
    for name in config.train:
        if name not in stages:
            raise ConfigError(f"{where}: unknown key 'train.{name}'; {_did_you_mean(name, stages)}")
    # A wrong name must not wait until training is over.
    make_sampler(config.sampling.sampler, config.sampling.options, domain.samplers())
    return config


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file (``extends:`` another, relative to it) and apply ``a.b=value`` overrides."""
    raw = _read(Path(path), ())
    return parse_config(apply_overrides(raw, overrides), str(path))


def apply_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``raw`` with ``a.b=value`` set; values are parsed as YAML."""
    result = dict(raw)
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"override '{item}': write it as key.sub=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override '{item}': the value is not valid YAML") from error
        for part in reversed(key.split(".")):
            value = {part: value}
        result = _merge(result, value)
    return result


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML that ``load_config`` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: 'extends' goes round in a circle")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    return _merge(_read(path.parent / str(base), (*seen, path.resolve())), raw)


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merge(result[key], value) if both else value
    return result


def _explain(error: Mapping[str, Any], schema: type[BaseModel], where: str) -> str:
    """One line for one pydantic error."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        siblings = _fields_at(schema, location[:-1])
        return f"{where}: unknown key '{key}'; {_did_you_mean(location[-1], siblings)}"
    if error["type"] == "value_error":
        return f"{where}: '{key}': {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"{where}: '{key}' is required"
    return f"{where}: '{key}' = {error['input']!r} is not valid: {error['msg'][0].lower()}{error['msg'][1:]}"


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"


def _fields_at(schema: Any, location: Sequence[str]) -> list[str]:
    """Names of the keys that a section accepts."""
    for part in location:
        fields = getattr(schema, "model_fields", None)
        if fields is None or part not in fields:
            schema = StageConfig  # inside the 'train' mapping
            continue
        schema = fields[part].annotation
    # A section of several kinds (the network of a denoiser) is a base class with a subclass for each.
    kinds = [schema, *(schema.__subclasses__() if isinstance(schema, type) else ())]
    return list(dict.fromkeys(name for kind in kinds for name in getattr(kind, "model_fields", {})))
