"""The command line: one module a group of commands, put together in app.py.

What only one of them needs bears its name in front (demo_run.py, docs_html.py, replay_report.py);
history_*.py read recorded data, and the rest is shared.
"""
