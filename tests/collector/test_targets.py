"""The page about the agent's configuration: its example is whole, and loads as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from wattmill_collector import targets
from wattmill_collector.settings import PARSERS, load

PAGE = Path(__file__).parents[2] / "docs/agent.md"


def example() -> str:
    found = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_loads_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(example())
    settings = load({}, config=file)
    assert settings.warnings == ()
    assert settings.engines[0].shares_ppm == (500_000, 500_000)
    assert settings.gateways[0].workloads == {"gpt-oss-120b": "chat-gpt-oss"}
    assert settings.meters[0].select == {"rPDU2DeviceStatusIndex": "1"}


def test_the_example_has_every_key() -> None:
    document = yaml.load(example(), Loader=yaml.BaseLoader)
    flat = {f"{key}.{name}" for key in ("spool", "sources") for name in document[key]} | set(document)
    assert {key for key in PARSERS if not key.startswith("kubernetes.")} - flat == {"key"}
    for section in targets.PARSERS:
        shown = {name for item in document[section] for name in item}
        assert targets.KEYS[section] == shown, section
