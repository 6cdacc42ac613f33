"""Compiled bodies of the retrieval structures: context tree of one request, sorted datastore, tree growth."""
