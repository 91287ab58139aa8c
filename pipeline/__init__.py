"""Audio files to a verified Zarr store of mel-spectrogram windows, in parallel on Dask."""
