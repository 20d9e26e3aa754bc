"""The compression stack against its controls: `stretto bench compress`."""
