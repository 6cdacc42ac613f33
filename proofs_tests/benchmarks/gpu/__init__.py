"""Parts of `proofs_tests.benchmarks.gpu_validation`."""
