"""`wattmill report`: sections that add up to the meter in all three formats, whatever names are in them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.ledger import MINUTE, T0, Books
from wattmill_api.terminal import account, report
from wattmill_api.terminal.account import QUESTIONS, SECTIONS, disagreements, in_force
from wattmill_api.terminal.client import Failure, Server
from wattmill_api.terminal.comparing import compared
from wattmill_api.terminal.report import instant, period
from wattmill_api.terminal.text import SCOPES

SPENT_MJ = 3 * (7_000_001 + 1_000_009 + 13 + 333_333 + 503)
PERIOD = ["--start", "2026-03-02T10:00:00Z", "--end", "2026-03-02T10:05:00Z"]


def write(address: str, capsys: pytest.CaptureFixture[str], format_: str) -> str:
    assert report.main([*PERIOD, "--server", address, "--format", format_], {}) == 0
    out, told = capsys.readouterr()
    assert told == ""
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", out.lower())
    return out


def tables(text: str) -> dict[str, list[list[str]]]:
    """Cells of the first table below each heading."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in text.splitlines():
        if line.startswith("## "):
            title = line[3:]
        elif line.startswith("| ") and ":---" not in line:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(title, []).append(cells)
    return found


def test_sections_of_the_json_add_up_to_the_meter(
    address: str, fleet: Books, capsys: pytest.CaptureFixture[str], hostile: str
) -> None:
    out = write(address, capsys, "json")
    assert out.isascii()
    document = json.loads(out)
    ledger = document["ledger"]
    assert (ledger["meter_mj"], ledger["residual_mj"], ledger["closes"]) == (SPENT_MJ, 0, True)
    for section in ("ledger", *SECTIONS):
        rows, total = document[section]["rows"], document[section]["total"]
        assert sum(row["energy_mj"] for row in rows) == total["energy_mj"] == SPENT_MJ
        assert sum(row["tokens"]["output"] or 0 for row in rows) == total["tokens"]["output"] == 9000
        assert total["tokens"] == {"input": 30, "cached_input": 15, "output": 9000}
    assert document["efficiency"]["accelerator"]["energy_mj"] == SPENT_MJ
    assert document["disagreements"] == []
    assert [(check["energy_mj"], check["difference_mj"]) for check in document["checks"]] == [(SPENT_MJ, 0)] * 5
    assert hostile in [row["group"]["workload"] for row in document["workloads"]["rows"]]
    gaps = [gap for row in document["coverage"]["accelerators"]["rows"] for gap in row["gaps"]]
    assert {(gap["start"], gap["reason"]) for gap in gaps} == {("2026-03-02T10:03:00Z", "no_reading")}
    assert document["prices"] == [
        {"site": site, **{what: [held] for what in ("tariffs", "carbon", "pue")}}
        for site in ("ams1", "zrh1")
        for held in [{"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:05:00Z", "version": None}]
    ]


def test_columns_of_the_markdown_add_up_as_printed(
    address: str, fleet: Books, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.do("INSERT INTO tariff (site, valid_from, currency, price_per_kwh) VALUES ('*', '2020-01-01', 'EUR', 0.137)")
    fleet.do("INSERT INTO carbon (site, valid_from, grams_per_kwh) VALUES ('*', '2020-01-01', 381)")
    found = tables(write(address, capsys, "md"))
    for title in ("Sites", "Teams", "Workloads", "Nodes"):
        heads, *rows, total = found[title]
        assert total[0] == "**Total**"
        assert len(rows) >= 2
        for name in ("Input tokens", "Output tokens", "kWh", "Cost EUR", "CO2 g"):
            column = heads.index(name)
            cells = [row[column].replace(",", "") for row in rows if row[column] != "not known"]
            digits = len(cells[0].partition(".")[2])
            units = [int(cell.replace(".", "")) for cell in cells]
            assert all(len(cell.partition(".")[2]) == digits for cell in cells)
            assert sum(units) == int(total[column].replace(",", "").replace(".", "")) > 0
    ledger = {row[0]: row for row in found["Where the energy went"]}
    assert ledger["Meter"][2] == ledger["**Sum of the accounts**"][2] == f"{SPENT_MJ:,}"
    assert ledger["Residual (meter less accounts)"][2] == "0"
    assert ledger["Sum of the teams"][2:] == [f"{SPENT_MJ:,}", "difference 0 mJ"]
    applied = {(row[0], row[1]): row[4] for row in found["Prices applied"][1:]}
    assert applied["ams1", "tariffs"] == "0.137 EUR/kWh"
    assert applied["zrh1", "pue"] == "not set"


def test_hostile_names_stay_in_their_cells(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    out = write(address, capsys, "md")
    assert all(line.isprintable() for line in out.split("\n"))
    for rows in tables(out).values():
        assert len({len(row) for row in rows}) == 1
    assert "<b>" not in re.sub(r"\\<b", "", out)
    assert not re.search(r"(?<!\\)\]\(http", out)
    assert "no traffic" in out
    assert "Scale it to zero. Then rest." in out
    assert "SIMULATED" not in out


def test_the_csv_adds_up_and_runs_nothing(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    out = write(address, capsys, "csv")
    assert all(line.isprintable() for line in out.split("\r\n"))
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    totals = [row for row in rows if row["section"] == "total"]
    assert [int(row["energy_mj"]) for row in totals] == [SPENT_MJ]
    for section in ("account", "site", "team", "workload", "node", "meter"):
        assert sum(int(row["energy_mj"]) for row in rows if row["section"] == section) == SPENT_MJ
    assert [row["energy_mj"] for row in rows if row["section"] == "residual"] == ["0"]
    assert {"finding", "gap", "coverage", "tariffs", "efficiency-node"} <= {row["section"] for row in rows}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert {row["team"] for row in rows if row["model"] == "qwen|3"} == {"'-team"}


def test_a_difference_is_printed(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.do("UPDATE accelerator_minute SET energy_mj = energy_mj + 1 WHERE time = %s", T0)
    out = write(address, capsys, "md")
    assert {row[0]: row for row in tables(out)["Where the energy went"]}["Residual (meter less accounts)"][2] == "2"
    assert "does not close" in out


def test_a_period_without_readings(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No energy was read in this period." in write(address, capsys, "md")
    assert json.loads(write(address, capsys, "json"))["workloads"]["rows"] == []
    write(address, capsys, "csv")


def test_simulated_is_said(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.do("UPDATE node SET simulated = true")
    assert "**SIMULATED" in write(address, capsys, "md")


def test_a_file_is_written_whole(
    address: str, fleet: Books, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "march.json"
    assert report.main([*PERIOD, "--server", address, "--format", "json", "--out", str(path)], {}) == 0
    assert json.loads(path.read_text())["ledger"]["meter_mj"] == SPENT_MJ
    assert [found.name for found in tmp_path.iterdir()] == ["march.json"]
    assert report.main([*PERIOD, "--server", address, "--out", str(tmp_path / "no" / "file")], {}) == 1
    assert "can't be written: No such file or directory" in capsys.readouterr().err


def test_the_service_judges_the_times(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--start", "yesterday", "--server", address], {}) == 2
    assert "start: must be RFC 3339" in capsys.readouterr().err
    assert report.main(["--start", "2026-03-03", "--end", "2026-03-02", "--server", address], {}) == 2
    assert "start: must not lie after end" in capsys.readouterr().err
    assert report.main(["--start", "2026-03-02", "--end", "2026-03-02", "--server", address], {}) == 2
    assert "must lie before --end" in capsys.readouterr().err


def test_how_a_period_may_be_written(stub: Any) -> None:
    with stub(lambda _path: (200, "application/json", {"rows": []})) as address:
        server = Server(address, clock=lambda: T0)
        server.now = lambda: T0  # type: ignore[method-assign]
        assert instant("2026-03-02", server) == "2026-03-02T00:00:00Z"
        assert instant("1772445600", server) == "1772445600"
        assert instant("7d", server) == instant("-7d", server) == "2026-02-23T10:00:00Z"
        assert period(server, "", "", "2026-12") == ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")
        assert period(server, "", "", "2026-02") == ("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z")
        for wrong in (("1", "", "2026-02"), ("", "", "2026-13"), ("999999999d", "", "")):
            with pytest.raises(Failure) as failed:
                period(server, *wrong)
            assert failed.value.status == 2
        server.close()


def test_readings_that_arrive_meanwhile_are_asked_for_again(address: str, fleet: Books) -> None:
    """The books change after the ledger was answered the first time: the second look is whole."""

    class Late(Server):
        asked = 0

        def get(self, path: str, parameters: Any = None) -> dict[str, Any]:
            answer = super().get(path, parameters)
            if path == "/ledger":
                self.asked += 1
                if self.asked == 2:  # the first one told the minutes
                    node = fleet.one("SELECT min(node_id) FROM node")
                    board = fleet.one("SELECT min(accelerator_id) FROM accelerator")
                    fleet.spent(node, board, 0, 4, 77, at=T0 + 3 * MINUTE)
            return answer

    server = Late(address)
    document = account.gather(server, PERIOD[1], PERIOD[3])
    server.close()
    assert server.asked == 4  # twice for the period, once for the one before
    assert document["disagreements"] == []
    assert document["ledger"]["total"]["energy_mj"] == document["nodes"]["total"]["energy_mj"] == SPENT_MJ + 77


def test_sections_that_differ_are_named() -> None:
    total = {"energy_mj": 5, "tokens": {"input": None, "cached_input": None, "output": 1}}
    whole = {"total": total}
    energy = {
        "scope": "accelerator",
        "ledger": whole,
        "efficiency": {"accelerator": total},
        **dict.fromkeys(SECTIONS, whole),
    }
    assert disagreements(energy) == []
    (sentence,) = disagreements({**energy, "nodes": {"total": {**total, "energy_mj": 6}}})
    assert "the nodes" in sentence
    other = {**total, "tokens": {**total["tokens"], "output": 2}}  # type: ignore[dict-item]
    assert len(disagreements({**energy, "teams": {"total": other}})) == 1


def test_which_price_held_when() -> None:
    def version(site: str, day: str) -> dict[str, str]:
        return {"site": site, "valid_from": f"2026-03-{day}T00:00:00Z", "of": f"{site}{day}"}

    versions = [version("ams1", "05"), version("*", "02"), version("*", "07"), version("zrh1", "03")]
    spans = in_force(versions, "ams1", "2026-03-01T00:00:00Z", "2026-03-09T00:00:00Z")
    assert [(span["start"][8:10], span["end"][8:10], span["version"] and span["version"]["of"]) for span in spans] == [
        ("01", "02", None),
        ("02", "05", "*02"),
        ("05", "09", "ams105"),
    ]


def test_the_same_figures_in_every_format(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(write(address, capsys, "json"))
    rows = list(csv.DictReader(io.StringIO(write(address, capsys, "csv"), newline="")))
    markdown = tables(write(address, capsys, "md"))
    for section, name in (("site", "sites"), ("team", "teams"), ("workload", "workloads"), ("node", "nodes")):
        cells = [row for row in rows if row["section"] == section]
        assert len(cells) == len(document[name]["rows"]) == len(markdown[name.capitalize()]) - 2
        heads = markdown[name.capitalize()][0]
        for cell, row, line in zip(cells, document[name]["rows"], markdown[name.capitalize()][1:], strict=False):
            assert int(cell["energy_mj"]) == row["energy_mj"]
            assert abs(float(line[heads.index("kWh")]) * 3_600_000_000 - row["energy_mj"]) < 36_000
            output = row["tokens"]["output"]
            assert cell["output_tokens"] == ("" if output is None else str(output))
            assert line[heads.index("Output tokens")] == ("not known" if output is None else f"{output:,}")


def test_twice_the_same(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    for format_ in report.FORMATS:
        assert write(address, capsys, format_) == write(address, capsys, format_)


def test_the_period_before_is_of_equal_length(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    """Minutes 2 to 4 beside minutes 0 to 2: a third of the energy of the two minutes before."""
    words = ["--start", "2026-03-02T10:02:00Z", "--end", "2026-03-02T10:04:00Z", "--server", address]
    assert report.main([*words, "--format", "json"], {}) == 0
    document = json.loads(capsys.readouterr().out)
    before = document["previous"]
    assert (before["start"], before["end"]) == ("2026-03-02T10:00:00Z", "2026-03-02T10:02:00Z")
    assert before["ledger"]["total"]["energy_mj"] == SPENT_MJ // 3 * 2
    figures = {row["what"]: row for row in document["comparison"]["total"]}
    assert (figures["energy_mj"]["now"], figures["energy_mj"]["change_ratio"]) == (SPENT_MJ // 3, -0.5)
    assert figures["tokens_per_kwh"]["change_ratio"] == 0
    assert report.main(words, {}) == 0
    compared_cells = {row[0]: row for row in tables(capsys.readouterr().out)["Compared with the period before"]}
    assert compared_cells["Energy, kWh"][3] == "-50.0 %"
    assert compared_cells["Tokens/kWh"][3] == "0.0 %"


def test_nothing_is_compared_with_nothing() -> None:
    empty: dict[str, Any] = {
        "scope": "accelerator",
        "efficiency": {"accelerator": None},
        "ledger": {"rows": [], "total": {"energy_mj": 0, "tokens": {}}},
        "workloads": {"rows": []},
    }
    assert compared(empty, empty) == {"total": [], "workloads": []}


def test_days_are_told_where_there_are_some(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.close_hours()
    words = ["--start", "2026-03-01", "--end", "2026-03-04", "--server", address]
    assert report.main([*words, "--format", "json"], {}) == 0
    days = json.loads(capsys.readouterr().out)["days"]
    assert [(day["time"], day["energy_mj"]) for day in days] == [("2026-03-02T00:00:00Z", SPENT_MJ)]
    assert report.main(words, {}) == 0
    assert tables(capsys.readouterr().out)["Days"][1][0] == "2026-03-02"


def test_what_a_remedy_saved_is_told(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.do(
        "INSERT INTO finding_saving (finding_id, since, until, method, before_mj, before_units, spent_mj, units,"
        " saved_mj) SELECT finding_id, %s, %s, 'idle', 10, 1, 2, 1, 7200000008 FROM finding",
        *(T0 + 3 * MINUTE, T0 + 10 * MINUTE),
    )
    found = json.loads(write(address, capsys, "json"))["findings"]
    assert (found["impact_mj"], found["realised_mj"], found["realised_findings"]) == (3600000001, 7200000008, 1)
    assert "saved 2.0000 kWh (7,200,000,008 mJ) so far" in write(address, capsys, "md").replace("\\", "")
    rows = list(csv.DictReader(io.StringIO(write(address, capsys, "csv"), newline="")))
    assert [row["energy_mj"] for row in rows if row["section"] == "saving"] == ["7200000008"]


def test_gaps_are_summed_by_reason(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    """Both nodes were silent in the last two of five minutes."""
    assert json.loads(write(address, capsys, "json"))["coverage"]["accelerators"]["gaps_s"] == {"no_reading": 240.0}
    assert "Gaps by reason: no\\_reading 0.07 h." in write(address, capsys, "md")


def test_phases_and_the_frontier(address: str, fleet: Books) -> None:
    group = {"workload": "chat", "model": "m", "team": "t", "accelerator_model": "H100"}
    energy = {"standing_mj": 30, "prefill_mj": 25, "decode_mj": 40, "dynamic_mj": 65, "unsplit_mj": 5, "total_mj": 100}
    times = {"start": "2026-03-02T00:00:00Z", "end": "2026-03-03T00:00:00Z"}
    learned = {"group": group, "energy": energy, "reason": None, "simulated": False}
    best = {"observed": {"joules_per_token": 3.0}, "reference": {"joules_per_token": 1.5}, "ratio": 2.0}
    more = {
        "/phases": {**times, "rows": [learned]},
        "/frontier": {**times, "rows": [{"group": group, "verdict": "far", **best}]},
    }

    class Knows(Server):
        def get(self, path: str, parameters: Any = None) -> dict[str, Any]:
            return more[path] if path in more else super().get(path, parameters)

    class Older(Server):
        def get(self, path: str, parameters: Any = None) -> dict[str, Any]:
            return super().get("/nowhere" if path in more else path, parameters)

    server, older = Knows(address), Older(address)
    document = account.gather(server, PERIOD[1], PERIOD[3])
    found = tables(report.written(document, "md"))
    shares = [re.sub(r".*\((.*)\)", r"\1", cell) for cell in found["Prefill, decode and standing power"][1][5:9]]
    assert shares == ["30.0 %", "25.0 %", "40.0 %", "5.0 %"]
    assert found["Distance to the best published"][1][3:] == ["3", "1.5", "2 ×", "far"]
    rows = list(csv.DictReader(io.StringIO(report.written(document, "csv"), newline="")))
    (phases,) = [row for row in rows if row["section"] == "phases"]
    assert [phases[name] for name in ("standing_mj", "prefill_mj", "decode_mj", "unsplit_mj")] == [
        "30",
        "25",
        "40",
        "5",
    ]
    assert "The service does not tell them." in report.written(account.gather(older, PERIOD[1], PERIOD[3]), "md")
    server.close()
    older.close()


def test_how_far_a_report_is_told(address: str, fleet: Books) -> None:
    steps: list[tuple[int, str]] = []
    server = Server(address)
    account.gather(server, PERIOD[1], PERIOD[3], lambda done, what: steps.append((done, what)))
    server.close()
    assert steps[0] == (0, "ledger")
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == QUESTIONS


def test_a_period_that_is_not_over_is_provisional(address: str, fleet: Books) -> None:
    class Then(Server):
        def now(self) -> Any:
            return T0 + 4 * MINUTE

    server = Then(address)
    document = account.gather(server, PERIOD[1], "2026-04-01T00:00:00Z")
    server.close()
    assert document["end"] == "2026-03-02T10:05:00Z"  # what has not been yet is left out
    assert document["provisional_at"] == "2026-03-02T10:04:00Z"
    assert "**Provisional**" in report.written(document, "md")


def with_hosts(fleet: Books) -> None:
    """Half as much again on each node, in each of the three minutes."""
    for (node,) in fleet.connection.execute("SELECT node_id FROM node").fetchall():
        for minute in range(3):
            fleet.host(node, 1_000_003, at=T0 + minute * MINUTE)


@pytest.mark.parametrize(("scope", "whole_mj"), [("node", SPENT_MJ + 6_000_018), ("facility", None)])
def test_at_a_wider_scope_the_sections_add_up_to_it(
    address: str, fleet: Books, capsys: pytest.CaptureFixture[str], scope: str, whole_mj: int | None
) -> None:
    with_hosts(fleet)
    fleet.do("INSERT INTO pue VALUES ('ams1', %s, 1.21), ('zrh1', %s, 1.5)", T0 - MINUTE, T0 - MINUTE)
    words = [*PERIOD, "--server", address, "--scope", scope, "--format"]
    assert report.main([*words, "json"], {}) == 0
    document = json.loads(capsys.readouterr().out)
    headline = document["efficiency"][scope]["energy_mj"]
    assert headline == (whole_mj or round((3 * 8_000_023 + 3_000_009) * 1.21) + round((3 * 333_836 + 3_000_009) * 1.5))
    for section in SECTIONS:
        assert document[section]["total"]["energy_mj"] == headline
    assert (document["scope"], document["disagreements"]) == (scope, [])
    assert {check["difference_mj"] for check in document["checks"]} == {0}
    ledger = document["ledger"]
    assert (ledger["total"]["energy_mj"], ledger["closes"]) == (SPENT_MJ, True), "the ledger is that of the boards"
    now = {row["what"]: row["now"] for row in document["comparison"]["total"]}
    assert now["energy_mj"] == headline
    assert report.main([*words, "md"], {}) == 0
    text = capsys.readouterr().out
    assert f"Sum of the workloads, {SCOPES[scope]}" in text
    assert "The ledger has" in text
    assert report.main([*words, "csv"], {}) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert sum(int(row["energy_mj"]) for row in rows if row["section"] == "workload") == headline


def test_a_facility_without_a_pue_has_no_report(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.do("INSERT INTO pue VALUES ('ams1', %s, 1.2)", T0 - MINUTE)
    assert report.main([*PERIOD, "--server", address, "--scope", "facility"], {}) == 2
    assert "no PUE is set" in capsys.readouterr().err
    assert report.main([*PERIOD, "--server", address, "--scope", "hall"], {}) == 2
    assert "--scope: must be one of accelerator, node, facility" in capsys.readouterr().err


def test_a_pue_of_this_period_alone_leaves_nothing_to_compare_with(
    address: str, fleet: Books, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.do("INSERT INTO pue VALUES ('*', %s, 1.2)", T0 + 2 * MINUTE)
    words = ["--start", "2026-03-02T10:02:00Z", "--end", "2026-03-02T10:04:00Z", "--server", address]
    assert report.main([*words, "--scope", "facility", "--format", "json"], {}) == 0
    assert json.loads(capsys.readouterr().out)["previous"] is None
