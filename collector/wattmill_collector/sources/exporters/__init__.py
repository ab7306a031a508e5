"""Exporters: power and energy that other programs measure and show as Prometheus pages.

`kinds.py` is the table of exporters that are known, `board_tables.py` and `board_pages.py` are accelerators,
`host_domains.py` the host, `meters.py` what stands above nodes, `units.py` exact numbers, `owners.py` who reads what
when several see it, `source.py` the source. Nothing here is imported before an exporter or a meter is configured.
"""
