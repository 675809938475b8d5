"""What can go wrong between text and shards, each error saying what to do next."""


class DataError(ValueError):
    """Base of every error of this package."""


class RecipeError(DataError):
    """A recipe with an unknown key, a value of the wrong type, or a combination that makes no sense."""


class SourceError(DataError):
    """A source that is missing, or does not have the fields that the recipe names."""


class ShardError(DataError):
    """A folder of shards that is incomplete, damaged, or made for something else."""


class LoaderStateError(DataError):
    """A loader's state that belongs to other data or to another way of reading it."""
