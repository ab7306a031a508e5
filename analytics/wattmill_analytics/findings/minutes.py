"""What detectors look at: closed minutes of engines and of boards, as columns.

Energies are integer millijoules, times microseconds. An integer that is not known is -1, a ratio NaN. Rows are sorted
by subject and time; `offsets` int64 [s+1] says which rows are whose. A minute without data has no row.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.curves import Curves

MINUTE_US = 60_000_000
# Kinds whose incidents are told from a level of before, so that one under way has to be known of: `levels_under_way`.
TOLD_FROM_BEFORE = ("throttled", "straggler", "regression")
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class BoardMinutes:
    """Minutes of accelerators; every column has one entry a minute [n].

    `untrusted_us`: time without a trusted reading; `power_ratio`: mean power over the board's limit.

    These may be empty, where nobody knows: `unattributed_mj`: energy of processes that no known engine owns;
    `power_mw`: mean of the power readings, NaN without; `node` [s]: code of the node that the board is in.
    """

    offsets: Int64
    minute_us: Int64
    serving_mj: Int64
    idle_loaded_mj: Int64
    idle_empty_mj: Int64
    estimated_mj: Int64
    anomalies: Int64
    untrusted_us: Int64
    power_ratio: Float64
    utilisation_ratio: Float64
    unattributed_mj: Int64 = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    power_mw: Float64 = dataclasses.field(default_factory=lambda: np.zeros(0))
    node: Int64 = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def energy_mj(self) -> Int64:
        """All energy of each minute."""
        known = self.serving_mj + self.idle_loaded_mj + self.idle_empty_mj
        return known + self.unattributed_mj if self.unattributed_mj.size else known


@dataclasses.dataclass(frozen=True, slots=True)
class EngineMinutes:
    """Minutes of engines, with what the learnt curves say of them.

    One entry an engine [s]: `workload`: index of the workload it serves, -1 none; `boards`: how many it holds;
    `curve`: row of `curves` that it is judged by, -1 none.

    One entry a minute [n]: energy of its boards by account; tokens and requests are increments; `cached_input_tokens`,
    `preemptions`, `requests_finished` -1 unknown; `version`: code of the engine's version, -1 unknown;
    `clock_event_reasons`: union over its boards; `requests_*`, `kv_cache_usage_ratio`: means; `power_ratio`: mean power
    over the boards' limits; `slow_board`: id of the board with the lowest SM clock, 0 if it holds less than two, and
    `slow_board_ratio` its clock over the median of the others.

    `peak_tokens_per_s` [s]: the most output tokens a second that the engine's workload has made in any hour of the days
    before the first minute given, NaN while less than a day was seen; empty where nothing is known of any engine.
    `peak_requests_running` [s]: the batch that the engine exceeded in a hundredth of its minutes in the days before the
    first minute given, as it was looked at; NaN or empty where that is not known.
    `usual_hit_ratio` [s]: the workload's usual ratio of cached to all input tokens in hours before the first minute
    given, without those of its cache misses; NaN or empty while too little is known.

    `levels_under_way`, `under_way_since_us` [s, kinds of TOLD_FROM_BEFORE]: an incident of that kind is known, is not
    over, and began before what the minutes given could tell it from: ln of the energy ratio, against the same
    yardstick, that was usual before it, and when it began. NaN: none; both may be empty.

    `looks_a_minute` [s]: how often a minute the agent asks the engine; empty: every 10 s.

    Judged at equal load [n], NaN where no curve can tell: `expected_mj`: what its tokens of this minute cost at this
    load by the curve; `expected_output_tokens`: what an engine that runs so many requests makes in a minute.
    """

    offsets: Int64
    workload: Int64
    boards: Int64
    curve: Int64
    curves: Curves
    minute_us: Int64
    serving_mj: Int64
    idle_loaded_mj: Int64
    estimated_mj: Int64
    input_tokens: Int64
    cached_input_tokens: Int64
    output_tokens: Int64
    requests_finished: Int64
    preemptions: Int64
    anomalies: Int64
    untrusted_us: Int64
    version: Int64
    clock_event_reasons: Int64
    slow_board: Int64
    power_ratio: Float64
    utilisation_ratio: Float64
    requests_running: Float64
    requests_waiting: Float64
    kv_cache_usage_ratio: Float64
    slow_board_ratio: Float64
    expected_mj: Float64
    expected_output_tokens: Float64
    looks_a_minute: Float64 = dataclasses.field(default_factory=lambda: np.zeros(0))
    peak_tokens_per_s: Float64 = dataclasses.field(default_factory=lambda: np.zeros(0))
    peak_requests_running: Float64 = dataclasses.field(default_factory=lambda: np.zeros(0))
    usual_hit_ratio: Float64 = dataclasses.field(default_factory=lambda: np.zeros(0))
    levels_under_way: Float64 = dataclasses.field(default_factory=lambda: np.zeros((0, len(TOLD_FROM_BEFORE))))
    under_way_since_us: Int64 = dataclasses.field(
        default_factory=lambda: np.zeros((0, len(TOLD_FROM_BEFORE)), np.int64)
    )

    @property
    def uncached_input_tokens(self) -> Int64:
        """Input tokens that were computed; all of them where the cached part is unknown."""
        return self.input_tokens - np.maximum(self.cached_input_tokens, 0)

    def under_way(self, kind: str) -> tuple[Float64, Int64]:
        """(level, since_us) [s] of incidents of one of TOLD_FROM_BEFORE, NaN where none is under way."""
        if not self.levels_under_way.size:
            return np.full(self.workload.size, np.nan), np.zeros(self.workload.size, np.int64)
        column = TOLD_FROM_BEFORE.index(kind)
        return self.levels_under_way[:, column], self.under_way_since_us[:, column]


Minutes = BoardMinutes | EngineMinutes
