"""What the ledger must contain, to the unit: the counters' own integers between the first and the last reading sent.

Promises: counts only what was sent; a reading spoilt by a glitch counts for nothing; an engine process that began
inside the run is counted from zero, one that ran before from its first reading. Written once, atomically.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wattmill_api.simulator.incidents import Incident
from wattmill_api.simulator.lines import PACKAGES, Ints
from wattmill_api.simulator.machine import Chunk, Machine, concerns
from wattmill_api.simulator.replica import LIFE_COLUMNS
from wattmill_api.simulator.waste import COUNTED

IDLE_KINDS = ("idle-loaded", "idle-empty", "spin-idle")  # all that is spent meanwhile is waste


def rfc3339(time_us: int) -> str:
    """UTC with microseconds only where there are any."""
    second = datetime.datetime.fromtimestamp(time_us // 1_000_000, datetime.UTC)
    return second.replace(microsecond=time_us % 1_000_000).isoformat().replace("+00:00", "Z")


@dataclasses.dataclass(slots=True)
class NodeTruth:
    """Running totals of one node. `None` in `first_…`: nothing sent yet."""

    machine: Machine
    energy_mj: Ints
    host_uj: Ints
    tokens: dict[tuple[int, int], Ints]
    token_base: dict[tuple[int, int], Ints]
    first_energy_mj: Ints | None
    first_host_uj: Ints | None


class Truth:
    """Adds up chunks as they are sent."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.nodes = [self._begin(m) for m in machines]
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.batches = self.readings = 0
        self.incidents: dict[Incident, int] = {}

    @staticmethod
    def _begin(machine: Machine) -> NodeTruth:
        boards = len(machine.plan.uuids)
        zero, host_zero = np.zeros(boards, np.int64), np.zeros(PACKAGES, np.int64)
        if machine.fresh:
            return NodeTruth(machine, zero, host_zero, {}, {}, None, None)
        return NodeTruth(machine, zero, host_zero, {}, {}, zero, host_zero)

    def add(self, node: int, chunk: Chunk, ticks: int, incidents: Sequence[Incident]) -> None:
        """The first `ticks` ticks of a chunk of this node are out, except those that the chunk calls lost."""
        if not ticks:
            return
        mine = [i for i in incidents if (i.workload or i.node == node) and i.start_us < chunk.times_us[ticks - 1]]
        self._add_incidents(self.nodes[node].machine, chunk, ticks, mine)
        sent = np.flatnonzero(~chunk.lost[:ticks])
        if not sent.size:
            return
        self.batches += sent.size
        self.readings += sum(chunk.readings(int(k)) for k in sent)
        first_us, last_us = int(chunk.times_us[sent[0]]), int(chunk.times_us[sent[-1]])
        self.first_us = first_us if self.first_us is None else min(self.first_us, first_us)
        self.last_us = last_us if self.last_us is None else max(self.last_us, last_us)
        total = self.nodes[node]
        if total.first_energy_mj is None or total.first_host_uj is None:
            total.first_energy_mj, total.first_host_uj = chunk.energy_mj[sent[0]], chunk.host_uj[sent[0]]
        for board in range(chunk.energy_mj.shape[1]):
            trusted = sent[~chunk.glitched[sent, board]]
            if trusted.size:
                total.energy_mj[board] = chunk.energy_mj[trusted[-1], board] - total.first_energy_mj[board]
        total.host_uj = chunk.host_uj[sent[-1]] - total.first_host_uj
        for life in chunk.lives:
            heard = sent[(sent >= life.first) & (sent < life.last)] - life.first
            if heard.size:
                key = (life.engine, life.number)
                zero = np.zeros(len(LIFE_COLUMNS), np.int64)
                base = total.token_base.setdefault(key, zero if life.from_zero else life.tokens[heard[0]])
                total.tokens[key] = life.tokens[heard[-1]] - base

    def _add_incidents(self, machine: Machine, chunk: Chunk, ticks: int, incidents: Sequence[Incident]) -> None:
        for incident in incidents:
            self.incidents.setdefault(incident, 0)
            times = chunk.times_us[:ticks]
            inside = np.flatnonzero((times > incident.start_us) & (times <= incident.end_us))
            if not inside.size:
                continue
            for engine in machine.plan.engines:
                if concerns(incident, machine.plan, engine):
                    spent_mj = chunk.spent_mj[inside][:, list(engine.accelerators)].sum(axis=1)
                    if incident.kind in IDLE_KINDS:
                        self.incidents[incident] += int(spent_mj.sum())
                    elif incident.kind in COUNTED:
                        share = chunk.wasted[engine.index, incident.kind][inside]
                        self.incidents[incident] += round(float((spent_mj * share).sum()))

    def document(self, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """The truth as it is written: integers, and times in RFC 3339."""
        accelerators: dict[str, dict[str, int]] = {}
        engines: dict[str, dict[str, Any]] = {}
        workloads: dict[str, dict[str, int]] = {}
        nodes: dict[str, dict[str, int]] = {}
        for total in self.nodes:
            plan = total.machine.plan
            for uuid, energy in zip(plan.uuids, total.energy_mj.tolist(), strict=True):
                accelerators[uuid] = {"energy_mj": energy}
            nodes[plan.name] = {
                "accelerator_energy_mj": int(total.energy_mj.sum()),
                "host_energy_uj": int(total.host_uj.sum()),
            }
            for engine in plan.engines:
                lives = [tokens for (index, _), tokens in total.tokens.items() if index == engine.index]
                counts = np.sum(lives, axis=0).tolist() if lives else [0] * len(LIFE_COLUMNS)
                tokens = dict(zip(LIFE_COLUMNS, (int(c) for c in counts), strict=True))
                engines[engine.target] = {"node": plan.name, "workload": engine.workload.name, **tokens}
                sum_up = workloads.setdefault(engine.workload.name, dict.fromkeys(LIFE_COLUMNS, 0))
                for name, count in tokens.items():
                    sum_up[name] += count
        return {
            "seed": seed,
            "options": dict(options),
            "start": rfc3339(self.first_us) if self.first_us is not None else None,
            "end": rfc3339(self.last_us) if self.last_us is not None else None,
            "batches": self.batches,
            "readings": self.readings,
            "totals": {
                "energy_mj": sum(n["accelerator_energy_mj"] for n in nodes.values()),
                "host_energy_uj": sum(n["host_energy_uj"] for n in nodes.values()),
                "tokens": {
                    name.removesuffix("_tokens"): sum(w[name] for w in workloads.values()) for name in LIFE_COLUMNS
                },
            },
            "accelerators": accelerators,
            "workloads": workloads,
            "engines": engines,
            "nodes": nodes,
            "incidents": [self._incident(i, energy) for i, energy in sorted(self.incidents.items())],
        }

    def _incident(self, incident: Incident, energy_mj: int) -> dict[str, Any]:
        energy = energy_mj if incident.kind in IDLE_KINDS + COUNTED else None
        times = {
            "start": rfc3339(max(incident.start_us, self.first_us or incident.start_us)),
            "end": rfc3339(min(incident.end_us, self.last_us or incident.end_us)),
            "energy_mj": energy,
        }
        if incident.workload:
            what = {"kind": incident.kind, "form": incident.form or None, "subject": incident.workload}
            return {**what, "node": None, "workload": incident.workload, "accelerators": [], **times}
        plan = self.nodes[incident.node].machine.plan
        engine = plan.engines[incident.engine] if incident.engine >= 0 else None
        subject = plan.name
        if engine is not None:
            subject = engine.target
        elif incident.accelerator >= 0:
            subject = plan.uuids[incident.accelerator]
        return {
            "kind": incident.kind,
            "form": incident.form or None,
            "subject": subject,
            "node": plan.name,
            "workload": engine.workload.name if engine is not None else None,
            "accelerators": [plan.uuids[i] for i in engine.accelerators] if engine is not None else [],
            **times,
        }


def write_atomically(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all: readers never see half a file. Errors: OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
