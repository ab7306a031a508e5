"""The load of a minute, told better than a few looks at the batch can tell it.

An engine says how many requests it runs only when it is asked: a few times a minute, and two requests more or less
are a third of a small batch. A curve looked up at so noisy a load is wrong, and not by as much at night as by day:
small batches would look dear again and again. Tokens, on the other hand, are counted. By Little's law requests in the
batch = tokens a second x seconds of a request a token, and those seconds depend on the load and change slowly. So they
are taken over minutes that made about as many tokens, as far back as it needs to have seen enough requests, and
multiplied by the minute's own tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.kernel import int64s, kernel

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

MINUTE_US = 60_000_000
ENOUGH_REQUESTS = 300.0  # looks x requests: they are not independent, so that this is about 10 % of noise
FARTHEST_MINUTES = 120
LONGEST_HOLE_US = 10 * MINUTE_US
ALIKE = 1.4  # so many times more or fewer tokens are another load


def steady_load(
    *,
    offsets: Int64,
    minute_us: Int64,
    output_tokens: Int64,
    requests_running: Float64,
    looks_a_minute: Float64,
) -> Float64:
    """Mean requests in the batch of each minute.

    Shapes: offsets int64 [s+1], looks_a_minute float64 [s] (readings a minute: 6 at an interval of 10 s); the columns
    [n], each engine's sorted by minute. requests_running: mean of the looks, NaN where none was.
    Returns: float64 [n]; the looks' own mean where no token came out; NaN stays. It depends on the minute and the
    FARTHEST_MINUTES before it, so that it is the same wherever the arrays begin earlier than that.
    """
    load = np.array(requests_running, np.float64)
    _steady(
        int64s(offsets),
        int64s(minute_us),
        int64s(output_tokens),
        np.require(requests_running, np.float64, ["C", "W"]),
        np.require(looks_a_minute, np.float64, ["C", "W"]),
        load,
    )
    return load


@kernel
def _steady(
    offsets: Int64, minute_us: Int64, output_tokens: Int64, running: Float64, looks_a_minute: Float64, load: Float64
) -> None:
    for s in range(offsets.size - 1):
        low, high = offsets[s], offsets[s + 1]
        enough = ENOUGH_REQUESTS / max(looks_a_minute[s], 1.0)
        for i in range(low, high):
            if output_tokens[i] <= 0 or np.isnan(running[i]):
                continue
            seen, tokens = 0.0, 0
            j = i
            while j >= low and minute_us[i] - minute_us[j] < FARTHEST_MINUTES * MINUTE_US:
                if j < i and minute_us[j + 1] - minute_us[j] > LONGEST_HOLE_US:
                    break
                alike = output_tokens[j] <= ALIKE * output_tokens[i] and output_tokens[i] <= ALIKE * output_tokens[j]
                if alike and not np.isnan(running[j]):
                    seen += running[j]
                    tokens += output_tokens[j]
                    if seen >= enough:
                        break
                j -= 1
            if seen > 0.0 and tokens > 0:
                load[i] = seen * (output_tokens[i] / tokens)
