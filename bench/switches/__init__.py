"""What each switch of training does by itself: `stretto bench switches`."""
