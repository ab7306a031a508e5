"""A simulated fleet that speaks the real wire and knows its own truth.

Power and throughput come from published measurements (`figures.csv`), arrivals and lengths from the shape of a
production trace; counters are integers, so what the service must answer is known to the unit. A seed, the options and
a start decide every byte. Nothing here is shared with the code that accounts or detects: the simulator may not mark
its own homework.

    scenario   what stands where, for whom, and what the person wants to go wrong
    incidents  what goes wrong, drawn by seed
    physics    arrivals -> batch -> tokens and watts
    replica    one engine: demand, processes, tokens, a chunk of ticks at a time
    machine    one node: boards, host and replicas, true counters and spoilt readings
    lines      the text of its batches
    fleet      all nodes in the order in which their lines are sent
    truth      what the ledger must contain
    delivery   posts and receipts
    command    `wattmill simulate`
"""
