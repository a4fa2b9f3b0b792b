"""The commands, one file each: `run(options, plan)` takes options, leaves a report and returns an exit code."""
