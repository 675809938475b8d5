"""The tests of the training passes on another build of them: run by test_fuzz.py under the sanitizers.

python sanitize_training.py LIBRARY
"""

import sys
from pathlib import Path

import pytest

from fathom.kernels.cpu import training

if __name__ == "__main__":
    library = training.TrainingLibrary(Path(sys.argv[1]))
    training.training_library = lambda: library
    tests = Path(__file__).parents[1] / "test_training_passes.py"
    sys.exit(pytest.main([str(tests), "-q", "-k", "native", "-p", "no:cacheprovider", "--timeout", "800"]))
