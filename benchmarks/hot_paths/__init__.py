"""Our hot paths, each taken by one process alone; `benchmarks.versions` counts its instructions in two versions."""
