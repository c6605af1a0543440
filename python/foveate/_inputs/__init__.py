"""What comes in: arrays, the reach and random numbers, checked."""
