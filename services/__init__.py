"""
The use cases: receive, stage, batch, import, record, report.

They know the domain and its ports only; each loads what it needs, asks the domain, then acts.
"""
