"""Judge decoding, LOSSY: mine which mismatches matter, fit a classifier, measure what each threshold gives."""
