"""Speed, as ratios of two things measured in the same run; never in a test."""
