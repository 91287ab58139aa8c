"""A folder of music becomes a verified Zarr store of mel-spectrogram windows, and a genre network learns from it."""
