"""Damaged input, by the million: whatever the bytes, the receiver's promises hold (`make fuzz SECONDS=60`)."""
