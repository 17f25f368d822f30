"""labctl: a one-page YAML topology becomes a running, proven Linux cluster of real VMs."""
