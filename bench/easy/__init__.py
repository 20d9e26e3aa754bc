"""What easy inputs save, against exit rules and an oracle: `stretto bench easy`."""
