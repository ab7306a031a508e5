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
from wattmill_api.terminal import report
from wattmill_api.terminal.client import Server
from wattmill_api.terminal.report import disagreements, in_force, instant

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
    for section in ("ledger", "workloads", "nodes"):
        rows, total = document[section]["rows"], document[section]["total"]
        assert sum(row["energy_mj"] for row in rows) == total["energy_mj"] == SPENT_MJ
        assert sum(row["tokens"]["output"] or 0 for row in rows) == total["tokens"]["output"] == 9000
        assert total["tokens"] == {"input": 30, "cached_input": 15, "output": 9000}
    assert document["efficiency"]["accelerator"]["energy_mj"] == SPENT_MJ
    assert document["disagreements"] == []
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
    for title in ("Workloads", "Nodes"):
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
    for section in ("account", "workload", "node", "meter"):
        assert sum(int(row["energy_mj"]) for row in rows if row["section"] == section) == SPENT_MJ
    assert [row["energy_mj"] for row in rows if row["section"] == "residual"] == ["0"]
    assert {"finding", "gap", "coverage", "tariffs", "efficiency-node"} <= {row["section"] for row in rows}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert [row["team"] for row in rows if row["model"] == "qwen|3"] == ["'-team"]


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
    assert instant("2026-03-02") == "2026-03-02T00:00:00Z"
    assert instant("1772445600") == "1772445600"


def test_readings_that_arrive_meanwhile_are_asked_for_again(address: str, fleet: Books) -> None:
    """The books change after the ledger was answered the first time: the second look is whole."""

    class Late(Server):
        asked = 0

        def get(self, path: str, parameters: Any = None) -> dict[str, Any]:
            answer = super().get(path, parameters)
            if path == "/ledger":
                self.asked += 1
                if self.asked == 2:
                    node = fleet.one("SELECT min(node_id) FROM node")
                    board = fleet.one("SELECT min(accelerator_id) FROM accelerator")
                    fleet.spent(node, board, 0, 4, 77, at=T0 + 3 * MINUTE)
            return answer

    server = Late(address)
    document = report.gather(server, PERIOD[1], PERIOD[3])
    server.close()
    assert server.asked == 3
    assert document["disagreements"] == []
    assert document["ledger"]["total"]["energy_mj"] == document["nodes"]["total"]["energy_mj"] == SPENT_MJ + 77


def test_sections_that_differ_are_named() -> None:
    total = {"energy_mj": 5, "tokens": {"input": None, "cached_input": None, "output": 1}}
    off = {**total, "energy_mj": 6}
    energy = {"ledger": {"total": total}, "efficiency": {"accelerator": total}, "workloads": {"total": total}}
    assert disagreements({**energy, "nodes": {"total": total}}) == []
    (sentence,) = disagreements({**energy, "nodes": {"total": off}})
    assert "the nodes" in sentence


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
