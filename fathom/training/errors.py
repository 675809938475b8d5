"""What can stop a training run, each error saying what to do next."""


class TrainingError(RuntimeError):
    """Base of every error of this package; recipes raise `fathom.data.errors.RecipeError`."""


class DivergedError(TrainingError):
    """Loss or gradient became NaN, infinite, or jumped, and the recipe says to stop."""


class ResumeError(TrainingError):
    """There is nothing to resume, or a checkpoint that does not belong to this recipe."""
