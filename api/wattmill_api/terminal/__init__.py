"""What people see in a terminal: `wattmill top` and `wattmill report`. They ask the REST API and nothing else.

Whatever comes from a service may be hostile: every name passes `text.printable` before it is shown.
"""
