"""From the Zarr store to a Conv1D genre network: loader, network, training, evaluation, prediction."""
