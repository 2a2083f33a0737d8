"""What the tier tells about itself: metrics and events."""
