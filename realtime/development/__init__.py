"""What `run_signalbox` runs: the processes of a site on one machine, started, reloaded and ended together."""
