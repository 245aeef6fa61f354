"""The network: cells as the paper writes them, the fused network, dropout, the objective."""
