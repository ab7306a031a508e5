"""The frontier: published joules per token, and how far a workload runs from the best of them.

`figures.csv` is the table, `references` reads its text, `model_names` and `accelerator_names` understand the names that
engines and drivers print, `matching` joins the two, `judgement` compares at the same inter-token latency. Pure, and
without numpy: whoever has the text of the table may ask.
"""
