"""Named errors. Each message says what was wrong, where, and what to do."""


class DiscoError(Exception):
    """Base of every error a user can cause or cure; the command line prints it in one line and exits with 1."""


class ConfigError(DiscoError):
    """A configuration key, value or combination is not valid."""


class DataError(DiscoError):
    """A dataset is missing, damaged or does not fit the model."""


class CheckpointError(DiscoError):
    """A checkpoint or model folder is missing, damaged or of another schema."""


class TrainingError(DiscoError):
    """Training cannot go on (a loss that is not finite, for example)."""


class RequestError(DiscoError):
    """A request to generate or evaluate cannot be served by this model."""


class StorageError(DiscoError):
    """A file cannot be written: disk full, folder read-only."""
