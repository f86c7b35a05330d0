"""What a run tells of itself.

run_files    its folder: how it begins, how a failure is told there, how its metrics are read again
diary        metrics and status while it trains; terminal  texts that are not ours, for whoever watches
exporter     the same for Prometheus; trackers  for whoever else is told
run_report   the same as one page (run_page, charts)
"""
