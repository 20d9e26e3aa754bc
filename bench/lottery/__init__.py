"""Whether a pruned network's initial weights mattered: `stretto bench lottery`."""
