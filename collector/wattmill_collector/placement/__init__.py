"""Placement: which engine holds which accelerators, and by which method that is known.

`configured`: the operator wrote it down. `pod`: the kubelet gave the boards to the engine's pod, whole and to nobody
else. `process`: the process that listens at the engine's target belongs together with processes that the driver lists
on a board. `share`: one of these, and another engine or pod is on that board too, or the pod or the process has a part
of it only (a time-slice, a MIG slice).
`exclusive`: the node has one engine only, so the boards in use are its. Otherwise the method is "" and there are no
accelerators: unknown, which the service books as unattributed.
"""

from wattmill_collector.placement.boards import Board, Instance, boards_of
from wattmill_collector.placement.configured import remember
from wattmill_collector.placement.layout import Layout, Placement, lay_out
from wattmill_collector.placement.node import Seat

__all__ = ["Board", "Instance", "Layout", "Placement", "Seat", "boards_of", "lay_out", "remember"]
