"""Is an engine lossless? A sequential test of the tokens that it emits against the law that it should sample."""
