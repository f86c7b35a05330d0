"""What a run tells of itself.

run_files    its folder: how it begins, how a failure is told there, how its metrics are read again
diary        metrics and status while it trains, progress for whoever watches (progress, terminal)
exporter     the same for Prometheus; trackers  for whoever else is told
run_report   the same as one page (run_page, charts)
"""
