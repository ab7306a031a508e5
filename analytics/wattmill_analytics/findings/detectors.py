"""The list of detectors. Adding one is one file and one entry here."""

from wattmill_analytics.findings import Detector
from wattmill_analytics.findings.idle import IdleEmpty, IdleLoaded
from wattmill_analytics.findings.low_batch import LowBatch
from wattmill_analytics.findings.spin_idle import SpinIdle
from wattmill_analytics.findings.telemetry_untrusted import TelemetryUntrusted

DETECTORS: tuple[Detector, ...] = (IdleLoaded(), IdleEmpty(), SpinIdle(), LowBatch(), TelemetryUntrusted())
