"""Files, memory, terminal, versions: what every room stands on."""
