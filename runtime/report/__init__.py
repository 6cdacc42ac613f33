"""The report: documents to one self-contained HTML file."""
