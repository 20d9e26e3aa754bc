"""A supernet against its widths trained alone: `stretto bench train`."""
