"""The sections of a sweep's report: `python -m hypertuning.report`."""
