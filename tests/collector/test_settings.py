"""Settings: one record out of three places, wrong values refused by name, unknown names reported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from wattmill_collector.setting_values import (
    parse_age_us,
    parse_interval_us,
    parse_labels,
    parse_size_bytes,
    parse_switch,
)
from wattmill_collector.settings import (
    EngineSettings,
    Settings,
    SettingsError,
    SourceSettings,
    default_spool_path,
    load,
)

EXAMPLE = """
server: http://wattmill:8080        # without it the agent spools and serves its own /metrics
key_file: /etc/wattmill/key
interval: 10s
node: gpu-017                       # default: hostname
site: ams1
labels: {rack: r12}
spool: {path: /var/lib/wattmill, max_bytes: 2GiB, max_age: 14d}
listen: 127.0.0.1:9477              # own /metrics; "" switches it off
sources: {nvml: auto, host: auto}   # auto | on | off
engines:                            # besides what is discovered
  - target: http://127.0.0.1:8000/metrics
    kind: auto
    workload: chat-qwen3-32b
    team: search
    accelerators: [0, 1]
discover: true
"""


def settings(
    tmp_path: Path,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> Settings:
    file = None
    if text is not None:
        file = tmp_path / "agent.yaml"
        file.write_text(text)
    return load(
        environment or {},
        options,
        config=file,
        default_config=tmp_path / "absent.yaml",
        hostname=lambda: "this-host",
        spool_path=lambda: tmp_path / "spool",
    )


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    s = settings(tmp_path)
    assert (s.server, s.node, s.site, s.interval_us, s.discover) == ("", "this-host", "default", 10_000_000, True)
    assert (s.spool.path, s.spool.max_bytes, s.spool.max_age_us) == (
        tmp_path / "spool",
        2 * 1024**3,
        14 * 86_400 * 10**6,
    )
    assert (s.listen, s.sources, s.engines) == ("127.0.0.1:9477", SourceSettings("auto", "auto"), ())
    assert s.warnings == ()


def test_the_example_of_the_design_is_understood_in_full(tmp_path: Path) -> None:
    s = settings(tmp_path, EXAMPLE)
    assert s.warnings == ()
    assert (s.server, s.key_file, s.node, s.site) == (
        "http://wattmill:8080",
        Path("/etc/wattmill/key"),
        "gpu-017",
        "ams1",
    )
    assert s.labels == {"rack": "r12"}
    assert s.spool.path == Path("/var/lib/wattmill")
    assert s.engines == (
        EngineSettings("http://127.0.0.1:8000/metrics", "auto", "chat-qwen3-32b", "search", ("0", "1")),
    )


def test_a_flag_goes_before_a_variable_and_a_variable_before_the_file(tmp_path: Path) -> None:
    text = "node: from-file\nsite: from-file\ninterval: 5s\n"
    environment = {"WATTMILL_NODE": "from-variable", "WATTMILL_SITE": "from-variable"}
    s = settings(tmp_path, text, environment, {"node": "from-flag"})
    assert (s.node, s.site, s.interval_us) == ("from-flag", "from-variable", 5_000_000)


def test_yaml_does_not_get_to_guess_types(tmp_path: Path) -> None:
    s = settings(tmp_path, "node: 017\nsources: {nvml: on, host: off}\nlabels: {rack: 012, live: yes}\n")
    assert (s.node, s.sources, s.labels) == ("017", SourceSettings("on", "off"), {"rack": "012", "live": "yes"})


def test_listen_can_be_switched_off_in_both_places(tmp_path: Path) -> None:
    assert settings(tmp_path, 'listen: ""\n').listen == ""
    assert settings(tmp_path, None, {"WATTMILL_LISTEN": ""}).listen == ""


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert settings(tmp_path, "node: a\n", {"WATTMILL_NODE": ""}).node == "a"


def test_variables_reach_the_nested_settings(tmp_path: Path) -> None:
    environment = {
        "WATTMILL_SPOOL": "/a",
        "WATTMILL_SPOOL_MAX_BYTES": "1GiB",
        "WATTMILL_SPOOL_MAX_AGE": "7d",
        "WATTMILL_SOURCES_NVML": "off",
        "WATTMILL_LABELS": "rack=r1, row=2",
        "WATTMILL_ENGINES": "http://a:1/metrics, http://b:2/metrics",
        "WATTMILL_KEY": "wm_ingest_secret",
    }
    s = settings(tmp_path, None, environment)
    assert (s.spool.path, s.spool.max_bytes, s.spool.max_age_us) == (Path("/a"), 1024**3, 7 * 86_400 * 10**6)
    assert (s.sources.nvml, s.labels, s.key) == ("off", {"rack": "r1", "row": "2"}, "wm_ingest_secret")
    assert [e.target for e in s.engines] == ["http://a:1/metrics", "http://b:2/metrics"]
    assert s.warnings == ()


def test_the_key_is_never_shown(tmp_path: Path) -> None:
    s = settings(tmp_path, None, {"WATTMILL_KEY": "wm_ingest_secret"})
    assert "wm_ingest_secret" not in s.described()
    assert "wm_ingest_secret" not in repr(s)
    assert "node=this-host" in s.described()


def test_a_key_does_not_belong_into_the_file(tmp_path: Path) -> None:
    s = settings(tmp_path, "key: wm_ingest_secret\n")
    assert s.key == ""
    assert "'key'" in s.warnings[0]


def test_unknown_names_are_reported_and_not_fatal(tmp_path: Path) -> None:
    text = "intervall: 5s\nspool: {max_size: 1}\nengines: [{target: 'http://a:1/metrics', modell: x}]\n"
    s = settings(tmp_path, text, {"WATTMILL_INTERVALL": "5s", "OTHER": "x"})
    assert s.interval_us == 10_000_000
    reported = "\n".join(s.warnings)
    assert len(s.warnings) == 4
    for name in ("'intervall'", "'spool.max_size'", "'modell'", "WATTMILL_INTERVALL"):
        assert name in reported


def test_names_of_the_service_and_of_kubernetes_are_not_unknown(tmp_path: Path) -> None:
    names = "DATABASE_URL KEY HOST PORT DATA SIMULATE TEST_DATABASE SERVICE_HOST SERVICE_PORT_HTTP PORT_8080_TCP_ADDR"
    environment = {f"WATTMILL_{name}": "x" for name in names.split()}
    environment |= {"WATTMILL_POSTGRES_SERVICE_HOST": "10.0.0.1", "WATTMILL_POSTGRES_PORT": "tcp://10.0.0.1:5432"}
    assert settings(tmp_path, None, environment).warnings == ()


@pytest.mark.parametrize(
    ("text", "named", "allowed"),
    [
        ("interval: 7s", "interval", "60s"),
        ("interval: 90s", "interval", "60s"),
        ("interval: [1]", "interval", "60s"),
        ("server: wattmill:8080", "server", "http://wattmill:8080"),
        ("server: http://user:pass@wattmill", "server", "without user"),
        ("server: http://wattmill:99999", "server", "http://wattmill:8080"),
        ("listen: 9477", "listen", "HOST:PORT"),
        ("sources: {nvml: maybe}", "sources.nvml", "auto, on or off"),
        ("spool: {max_bytes: 1KiB}", "spool.max_bytes", "16MiB"),
        ("spool: {max_age: soon}", "spool.max_age", "14d"),
        ("discover: perhaps", "discover", "true or false"),
        ("labels: [a]", "labels", "rack"),
        ("node: " + "n" * 257, "node", "256 characters"),
        ("site: " + "名" * 171, "site", "512 bytes"),
        ("node: {a: b}", "node", "name"),
        ("engines: [{kind: vllm}]", "engines", "target"),
        ("engines: [{target: 'http://a/metrics', kind: vlm}]", "engines", "vllm"),
        ("engines: [{target: 'http://a/m'}, {target: 'http://a/m'}]", "engines", "twice"),
        ("engines: [{target: 'ftp://a/m'}]", "engines", "http"),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(
    tmp_path: Path, text: str, named: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(tmp_path, text)
    assert named in str(refused.value)
    assert allowed in str(refused.value)
    assert "agent.yaml" in str(refused.value)


def test_a_wrong_variable_is_named_as_the_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="WATTMILL_INTERVAL is '7s'"):
        settings(tmp_path, None, {"WATTMILL_INTERVAL": "7s"})


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"agent\.yaml"):
        settings(tmp_path, text)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        load({"WATTMILL_CONFIG": str(tmp_path / "absent.yaml")})


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert settings(tmp_path, "# nothing yet\n").node == "this-host"


@pytest.mark.parametrize("seconds", [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60])
def test_every_divisor_of_a_minute_is_an_interval(seconds: int) -> None:
    assert parse_interval_us(f"{seconds}s") == seconds * 1_000_000
    assert parse_interval_us(str(seconds)) == seconds * 1_000_000


def test_durations_sizes_and_switches() -> None:
    assert parse_interval_us("1m") == 60_000_000
    assert parse_age_us("36h") == parse_age_us("1.5d") == 129_600_000_000
    assert parse_size_bytes("16MiB") == 16_777_216
    assert parse_size_bytes("20 MB") == 20_000_000
    assert parse_size_bytes("33554432") == 33_554_432
    assert parse_switch("true") == "on"
    assert parse_labels("") == {}


def test_the_spool_goes_where_this_user_may_write(tmp_path: Path) -> None:
    assert default_spool_path(system=tmp_path / "lib" / "wattmill") == tmp_path / "lib" / "wattmill"
    unwritable = Path("/proc/self/wattmill")
    assert default_spool_path(system=unwritable, home=tmp_path) == tmp_path / ".local" / "state" / "wattmill"
