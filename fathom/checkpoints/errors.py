"""What can be wrong with a checkpoint or its source: one class for each thing a caller may want to tell apart."""


class CheckpointError(Exception):
    """Base of everything this package raises about files, names and sources."""


class MalformedFileError(CheckpointError):
    """The bytes contradict the format: truncated, overlapping, out of bounds, lying counts, not UTF-8."""


class UnsupportedTypeError(CheckpointError):
    """A well-formed file uses a tensor type, architecture or version that Fathom does not read yet."""


class PickleRefusedError(CheckpointError):
    """The weights are pickled, that is code; Fathom never unpickles."""


class MismatchError(CheckpointError):
    """Tensors are missing, unused, or have another shape than the configuration says."""


class NonFiniteError(CheckpointError):
    """A weight is NaN or infinite (found only when a check is asked for)."""


class UnsafePathError(CheckpointError):
    """A name inside a file, a hub's answer or a reference points outside the folder it belongs to."""


class SourceError(CheckpointError):
    """A model reference leads nowhere: not installed, no such repository, the hub cannot be reached."""


class AccessError(SourceError):
    """The hub refuses: the repository is gated or private, or the token is wrong."""


class ChecksumError(SourceError):
    """What was downloaded or converted is not what its checksum says."""


class DiskFullError(CheckpointError):
    """No room left; nothing half-written stays under a final name."""


class InvalidConfigError(CheckpointError):
    """config.json or a GGUF file's metadata do not describe a model that Fathom can build."""
