"""Domains by name, from the entry-point group ``disco.domains``: built-in and third-party ones alike."""

import difflib
from importlib.metadata import entry_points

from core.errors import ConfigError
from core.interfaces import Domain

GROUP = "disco.domains"
_registered: dict[str, type[Domain]] = {}


def register(domain: type[Domain]) -> type[Domain]:
    """Class decorator: make a domain known in this process without an entry point (notebooks, tests)."""
    _registered[domain.name] = domain
    return domain


def domain_names() -> list[str]:
    """Names of all domains that are installed or registered."""
    return sorted({e.name for e in entry_points(group=GROUP)} | set(_registered))


def get_domain(name: str) -> type[Domain]:
    """Domain class by name. Raises ConfigError for an unknown name or a domain whose libraries are missing."""
    if name in _registered:
        return _registered[name]
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                loaded = entry.load()
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] in ("core", "domains"):
                    raise  # a module of our own: a broken installation, not a missing extra
                raise ConfigError(
                    f"domain '{name}' needs the package '{error.name}': pip install 'disco-diff[{name}]'"
                ) from error
            return loaded
    close = difflib.get_close_matches(name, domain_names(), 1)
    hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(domain_names()) or 'none'}"
    raise ConfigError(f"unknown domain '{name}'{hint}")
