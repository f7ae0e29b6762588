"""The compressor: fetch, compress, measure, gate, pack."""
